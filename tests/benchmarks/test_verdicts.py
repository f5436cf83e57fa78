from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bbx.benchmarks import verdicts
from bbx.benchmarks.contention import Load
from bbx.benchmarks.measure import Measurement, Profile, measure
from bbx.benchmarks.stats import Interval, Summary
from bbx.benchmarks.verdicts import Reason, judge, verdict_of
from bbx.runners.fake import FakeRunner, Fault, Latency, drift, jitter
from bbx.types import TensorSpec

INPUTS = (TensorSpec("images", "float32", (None, 4)),)
FEEDS = {"images": np.ones((1, 4), dtype=np.float32)}
PATIENT = Profile("patient", at_least_s=3, cap_s=6, warm_up_cap_s=2, percentile=90, target={"cpu": 0.01})
QUIET = Load(
    seconds=3.0,
    cores=2,
    own_cores=2.0,
    other_cores=0.01,
    steal_share=0.001,
    throttled_share=0.0,
    involuntary_per_s=30.0,
    thermal_events=0,
    clock_ratio=1.0,
)
SUMMARY = Summary(
    n=1000, median=1e6, ci95=Interval(998_000, 1_002_000), mean=1e6, min=9, p90=2, p95=3, p99=2_000_000, iqr=1
)


def measured(latency: Latency, *, faults: tuple[Fault, ...] = ()) -> Measurement:
    with FakeRunner(INPUTS, INPUTS, latency=latency, faults=faults) as runner:
        found = measure(runner.bind(FEEDS), "cpu", PATIENT, now=runner.now)
    return replace(found, load=QUIET)


def verdicts_in(reasons: tuple[Reason, ...] | list[Reason]) -> list[str]:
    return [reason.verdict for reason in reasons]


def test_a_clean_run_is_valid() -> None:
    reasons = judge(measured(jitter(1_000_000, 0.02)), parity={"verdict": "pass"})
    assert reasons == ()
    assert verdict_of(reasons) == "valid"


def test_a_runner_with_two_speeds_is_unstable_and_both_are_named() -> None:
    reasons = judge(measured(lambda index: 1_000_000 if index % 5 < 3 else 2_000_000), parity=None)
    assert verdicts_in(reasons) == ["unstable"]
    assert "60% of the runs take about 1.000 ms and 40% about 2.000 ms" in reasons[0].text


def test_a_runner_that_gets_slower_is_unstable() -> None:
    reasons = judge(measured(drift(1_000_000, 100)), parity=None)
    assert verdict_of(reasons) == "unstable"
    assert "on the way" in reasons[0].text


def test_rare_stalls_that_outweigh_all_other_runs_are_inconsistent() -> None:
    stalls = tuple(Fault(at=index, stall_ns=500_000_000) for index in range(1000, 4000, 700))
    reasons = judge(measured(jitter(1_000_000, 0.01), faults=stalls), parity=None)
    assert verdict_of(reasons) == "inconsistent"
    assert "above the 99th percentile" in reasons[0].text


def test_a_noisy_runner_has_not_converged() -> None:
    reasons = judge(measured(jitter(30_000_000, 0.5)), parity=None)
    assert "not_converged" in verdicts_in(reasons)


def test_too_few_runs_for_an_interval_have_not_converged() -> None:
    reasons = judge(measured(1_500_000_000), parity=None)
    assert verdicts_in(reasons) == ["not_converged"]
    assert reasons[0].text.startswith("4 runs fitted into the time")


def test_wrong_answers_outrank_everything_else() -> None:
    parity = {"verdict": "fail", "reasons": ["Output 'logits' on noise: relative L2 0.5."]}
    found = judge(measured(drift(1_000_000, 100)), parity=parity, throttled=["power limit"])
    assert verdicts_in(found) == ["parity_failed", "throttled", "unstable", "not_converged"]
    assert "relative L2 0.5" in found[0].text


@pytest.mark.parametrize("verdict", ["pass", "inconclusive"])
def test_parity_that_did_not_fail_is_no_reason(verdict: str) -> None:
    assert verdicts.parity_reasons({"verdict": verdict, "reasons": ["constant"]}) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"steal_share": 0.02}, "hypervisor took 2.0%"),
        ({"throttled_share": 0.05}, "CPU quota held it back for 5.0%"),
        ({"other_cores": 0.3, "own_cores": 1.7}, "kept 0.30 of 2 CPUs busy"),
        ({"involuntary_per_s": 500.0}, "500 times a second"),
    ],
)
def test_what_took_cpu_time_is_named(change: dict[str, float], text: str) -> None:
    reasons = verdicts.contention_reasons(replace(QUIET, **change))
    assert verdicts_in(reasons) == ["contended"]
    assert text in reasons[0].text
    assert reasons[0].remedy


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"other_cores": 0.3, "own_cores": 1.0},
        {"other_cores": None, "steal_share": None, "throttled_share": None},
        {"steal_share": 0.5, "seconds": 0.01},
    ],
)
def test_neighbours_that_took_nothing_are_no_contention(change: dict[str, float | None]) -> None:
    assert verdicts.contention_reasons(replace(QUIET, **change)) == []


@pytest.mark.parametrize(
    ("change", "throttled", "text"),
    [
        ({}, ["power limit"], "The GPU's clocks were held back (power limit)."),
        ({"thermal_events": 4}, [], "CPU cores slowed down 4 times because they were hot."),
        ({"clock_ratio": 0.7}, [], "The CPU's clock fell to 70%"),
    ],
)
def test_what_was_throttled_is_named(change: dict[str, float], throttled: list[str], text: str) -> None:
    reasons = verdicts.throttle_reasons(replace(QUIET, **change), throttled)
    assert verdicts_in(reasons) == ["throttled"]
    assert text in reasons[0].text


def test_a_clock_that_rose_or_cannot_be_read_is_not_throttled() -> None:
    for ratio in (1.4, 0.95, None):
        assert verdicts.throttle_reasons(replace(QUIET, clock_ratio=ratio, thermal_events=None), []) == []


@pytest.mark.parametrize(
    ("runs_per_s", "clock", "wrong"),
    [
        (1000.0, "perf_counter_ns", False),
        (960.0, "perf_counter_ns", False),
        (940.0, "perf_counter_ns", True),
        (1060.0, "perf_counter_ns", True),
        (900.0, "cuda_event", False),
        (1060.0, "cuda_event", True),
    ],
)
def test_throughput_times_latency_must_be_one(runs_per_s: float, clock: str, wrong: bool) -> None:
    reasons = verdicts.consistency_reasons(SUMMARY, runs_per_s, clock)
    assert verdicts_in(reasons) == (["inconsistent"] if wrong else [])


def test_an_environment_that_cannot_be_read_is_unknown() -> None:
    blind = replace(QUIET, other_cores=None)
    assert "cpu.model" in verdicts.environment_reasons(["cpu.model"], QUIET)[0].text
    assert verdicts_in(verdicts.environment_reasons([], blind)) == ["unknown_environment"]
    assert verdicts.environment_reasons([], QUIET) == []
