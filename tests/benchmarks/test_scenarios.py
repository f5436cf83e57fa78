"""Saturation, cold caches, and rows of several processes."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bbx.benchmarks.contention import usable_cpus
from bbx.benchmarks.journal import read_samples, write_samples
from bbx.benchmarks.measure import PROFILES, Profile
from bbx.benchmarks.pooling import in_processes, pool_medians, pooled_row, processes_of
from bbx.benchmarks.scenarios.cold import UNKNOWN_BYTES, Caches, Cold, caches_of, evicting
from bbx.benchmarks.scenarios.offline import (
    Flood,
    best_in_flight,
    flood,
    flood_stream,
    joined,
    rate_interval,
    trial_seconds,
)
from bbx.benchmarks.scenarios.take import take
from bbx.benchmarks.scenarios.take_offline import rate_reasons
from bbx.benchmarks.scenarios.task import Taken, Task
from bbx.benchmarks.stats import Samples
from bbx.benchmarks.verdicts import judge
from bbx.errors import BbxError
from bbx.runners.base import Bound, sample_host_clock
from bbx.runners.fake import FakeRunner, Fault, Latency, jitter
from bbx.types import TensorSpec

MS = 1_000_000
INPUTS = (TensorSpec("images", "float32", (None, 4)),)
FEEDS = {"images": np.ones((1, 4), dtype=np.float32)}
QUICK = PROFILES["quick"]


def sleep(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def test_requests_in_flight_overlap_and_each_is_counted_once() -> None:
    together, most = 0, 0
    lock = threading.Lock()

    def step() -> None:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.01)
        with lock:
            together -= 1

    found = flood([step] * 3, 0.2)
    assert most == 3
    assert found.latencies.size == found.gaps.size
    assert found.latencies.min() >= 10 * MS
    assert found.wall_ns <= 0.2e9
    assert found.rate_per_s * found.latencies.mean() / 1e9 == pytest.approx(3, rel=0.15)


def test_a_request_that_outlasts_the_time_is_the_only_one() -> None:
    found = flood([sleep(0.05)], 0.01)
    assert found.latencies.size == 1
    assert found.wall_ns >= 50 * MS


def test_an_error_in_flight_ends_the_others() -> None:
    calls = itertools.count()

    def failing() -> None:
        if next(calls) == 5:
            raise BbxError("the device is gone")
        time.sleep(0.001)

    begun = time.monotonic()
    with pytest.raises(BbxError, match="the device is gone"):
        flood([sleep(0.001), failing], 20.0)
    assert time.monotonic() - begun < 15


def test_the_throughput_and_its_interval_on_literal_gaps() -> None:
    even = rate_interval(np.full(200, 2 * MS))
    assert even is not None
    assert (even.value, even.low, even.high, even.reach) == (500.0, 500.0, 500.0, 0.0)
    # Twenty groups whose means are 1 ms and 3 ms in turns: deviation 1.026 ms, error 2.093 · 1.026 / √20.
    uneven = rate_interval(np.repeat(np.tile([MS, 3 * MS], 10), 10))
    assert uneven is not None
    error = 2.093 * 1.025978 / np.sqrt(20)
    assert uneven.low == pytest.approx(1000 / (2 + error), rel=1e-4)
    assert uneven.high == pytest.approx(1000 / (2 - error), rel=1e-4)
    assert rate_interval(np.full(39, MS)) is None


@pytest.mark.parametrize(
    ("rates", "wanted"), [([100, 190, 195], 4), ([100, 101], 1), ([100, 200, 150], 2), ([100, 90], 1)]
)
def test_requests_are_added_while_they_bring_something(rates: list[float], wanted: int) -> None:
    tried = iter(rates)

    def attempt(_: int) -> Flood:
        gap = round(1e9 / next(tried))
        return Flood(np.array([MS]), np.full(10, gap))

    assert best_in_flight(attempt, most=2 ** (len(rates) - 1)) == wanted


def test_a_look_takes_a_few_runs_and_never_the_whole_time() -> None:
    assert trial_seconds(MS, 3.0) == 0.3
    assert trial_seconds(200 * MS, 3.0) == 0.8
    assert trial_seconds(5000 * MS, 3.0) == 3.0


def test_floods_join_as_if_they_were_one() -> None:
    one = Flood(np.array([5, 6]), np.array([10, 20]))
    found = joined([one, one])
    assert (found.wall_ns, found.latencies.tolist()) == (60, [5, 6, 5, 6])


def row(scenario: Any, latency: Latency = MS, *, device: str = "cpu", **more: Any) -> Taken:
    with FakeRunner(INPUTS, INPUTS, latency=latency, device=device, **more) as runner:
        return take(Task(runner, lambda: runner.bind(FEEDS), QUICK), scenario)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_offline_row_has_a_throughput_with_its_interval(device: str) -> None:
    found = row("offline", device=device)
    assert found.requests_per_s == pytest.approx(1000, rel=0.02)
    assert found.facts["requests_per_s"]["value"] == found.requests_per_s
    low, high = found.facts["requests_per_s"]["ci95"]
    assert low <= found.requests_per_s <= high
    assert (found.facts["in_flight"] is None) == (device == "cuda")
    assert (found.measured.stopped, found.reasons) == ("converged", ())


def test_a_stream_is_waited_for_once_and_its_time_shared_out() -> None:
    with FakeRunner(INPUTS, INPUTS, latency=[MS, 3 * MS]) as runner:
        found = flood_stream(runner.bind(FEEDS), 10, runner.now)
    assert found.gaps.tolist() == [2 * MS] * 10
    assert found.rate_per_s == 500.0


def test_an_offline_row_that_is_not_known_well_enough_says_so() -> None:
    assert [reason.verdict for reason in rate_reasons(None, 0.01, 12)] == ["not_converged"]
    found = row("offline", jitter(30 * MS, 0.9))
    assert [reason.verdict for reason in found.reasons] == ["not_converged"]
    assert found.measured.stopped == "capped"


def test_a_trace_of_overlapping_requests_is_not_judged_as_a_sequence() -> None:
    found = row("offline", lambda index: MS if index % 2 else 5 * MS)
    measured = replace(found.measured, load=replace(found.measured.load, other_cores=0.0))
    assert "unstable" in [reason.verdict for reason in judge(measured, parity=None)]
    own = judge(measured, parity=None, one_at_a_time=False, own=found.reasons)
    assert not {reason.verdict for reason in own} & {"unstable", "inconsistent"}


def test_a_failing_runner_fails_the_row() -> None:
    with pytest.raises(BbxError, match="the device is gone"):
        row("offline", faults=(Fault(at=700, error=BbxError("the device is gone")),))


def write_caches(root: Path, *sizes: tuple[int, str, str]) -> None:
    for number, (level, kind, size) in enumerate(sizes):
        folder = root / f"sys/devices/system/cpu/cpu0/cache/index{number}"
        folder.mkdir(parents=True)
        for name, text in (("level", str(level)), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")


def test_the_sizes_of_caches_are_read_from_the_kernel(tmp_path: Path) -> None:
    write_caches(
        tmp_path,
        (1, "Data", "32K"),
        (1, "Instruction", "64M"),
        (2, "Unified", "1M"),
        (3, "Unified", "32768K"),
    )
    assert caches_of(0, tmp_path) == Caches(last=32 << 20, private=1 << 20)
    assert caches_of(1, tmp_path) == Caches(last=UNKNOWN_BYTES, private=0)


def test_a_run_with_cold_caches_reads_memory_and_its_time_is_its_own() -> None:
    """A table of 1 MiB in random order: from the cache it comes several times as fast as from memory."""
    order = np.random.default_rng(0).permutation(1 << 17)
    table = np.ones(1 << 17)

    def step() -> None:
        table[order]

    hot = Bound(step, lambda count: sample_host_clock(step, count), "perf_counter_ns", dict)
    hot.sample(20)
    with evicting() as evictor:
        cold = Cold(hot, evictor, time.perf_counter_ns)
        begun = time.perf_counter_ns()
        samples = cold.bound().sample(20)
        took = time.perf_counter_ns() - begun
        assert np.median(samples) > 1.2 * np.median(hot.sample(200))
    assert cold.idle_ns + int(samples.sum()) == pytest.approx(took, rel=0.01)
    assert cold.idle_ns > samples.sum()


def test_a_row_with_cold_caches_is_consistent() -> None:
    profile = Profile(
        "brief", at_least_s=0.1, cap_s=0.2, warm_up_cap_s=0.1, percentile=None, target={"cpu": 1}
    )

    class Busy(FakeRunner):
        """Lives by the wall clock."""

        now = staticmethod(time.perf_counter_ns)

        def bind(self, feeds: Any) -> Bound:
            def step() -> None:
                end = time.perf_counter_ns() + MS
                while time.perf_counter_ns() < end:
                    pass

            return Bound(step, lambda count: sample_host_clock(step, count), "perf_counter_ns", dict)

    with Busy(INPUTS, INPUTS) as runner:
        found = take(Task(runner, lambda: runner.bind(FEEDS), profile), "single", cache="cold")
    assert found.measured.runs_per_s * found.measured.summary.mean / 1e9 == pytest.approx(1.0, rel=0.04)


def test_medians_of_processes_are_pooled_with_what_lies_between_them() -> None:
    found = pool_medians([100.0, 102.0, 98.0, 101.0, 99.0])
    assert found.median == 100.0
    # Deviation 1.5811; 2.776 · 1.5811 / √5 = 1.963.
    assert (found.ci95.low, found.ci95.high) == (98, 102)
    assert found.spread == pytest.approx(0.015811, rel=1e-3)
    with pytest.raises(ValueError, match="cannot be pooled"):
        pool_medians([1.0])


def test_each_process_varies_little_and_they_differ_so_the_interval_is_wide() -> None:
    """What one process cannot see: each is exact, and they lie 4 % apart."""
    rows = [process(median) for median in (100 * MS, 104 * MS, 100 * MS, 104 * MS, 102 * MS)]
    found = pooled_row(rows, trace(rows))
    low, high = found["latency_ns"]["ci95"]
    assert (high - low) / 2 / found["latency_ns"]["median"] > 0.02
    assert found["verdict"] == "not_converged"
    assert "over 5 processes" in found["reasons"][0]["text"]


def process(median: int, **changes: Any) -> dict[str, Any]:
    load = {
        **{"seconds": 2.0, "cores": 2, "own_cores": 1.5, "other_cores": 0.1, "steal_share": 0.0},
        **{"throttled_share": None, "involuntary_per_s": 5.0, "thermal_events": 0, "clock_ratio": 1.0},
    }
    found = {
        "verdict": "valid",
        "reasons": [],
        "batch": 2,
        "latency_ns": {"median": float(median), "ci95": [median - 10, median + 10]},
        "throughput_per_s": 2e9 / median,
        "runs": 100,
        "stopped": "converged",
        "target": 0.01,
        "peak_bytes": median,
        "parity": {"verdict": "pass"},
        "warm_up": {"runs": 3, "seconds": 0.5, "settled": True},
        "load": load,
    }
    return found | changes


def trace(rows: list[dict[str, Any]]) -> Samples:
    return np.concatenate([np.full(each["runs"], int(each["latency_ns"]["median"])) for each in rows])


def test_a_pooled_row_adds_up_its_processes() -> None:
    medians = [100 * MS, 100 * MS + 1000, 100 * MS + 500, 100 * MS + 200, 100 * MS + 800]
    rows = [process(median) for median in medians]
    found = pooled_row(rows, trace(rows))
    assert (found["verdict"], found["runs"], found["stopped"]) == ("valid", 500, "converged")
    assert found["throughput_per_s"] == pytest.approx(20.0, rel=1e-4)
    assert found["peak_bytes"] == max(medians)
    assert found["load"]["seconds"] == 10.0
    assert found["load"]["other_cores"] == pytest.approx(0.1)
    assert found["load"]["throttled_share"] is None
    assert [each["median"] for each in found["processes"]] == medians
    assert found["latency_ns"]["p90"] == 100 * MS + 1000


def test_what_is_wrong_with_one_process_is_wrong_with_the_row() -> None:
    contended = {"verdict": "contended", "text": "Others were busy.", "remedy": "Stop them."}
    rows = [process(100 * MS) for _ in range(4)]
    rows.append(process(110 * MS, verdict="contended", reasons=[contended], parity={"verdict": "fail"}))
    found = pooled_row(rows, trace(rows))
    assert found["verdict"] == "contended"
    texts = [reason["text"] for reason in found["reasons"]]
    assert texts[0] == "Process 5 of 5: Others were busy."
    assert "differ by up to 10%" in texts[1]
    assert found["parity"]["verdict"] == "fail"


def test_traces_of_processes_become_one_file(tmp_path: Path) -> None:
    medians = iter((100 * MS, 101 * MS))

    def execute(request: dict[str, Any]) -> dict[str, Any]:
        found = process(next(medians))
        write_samples(tmp_path / request["samples"], trace([found]), np.array([1, 2]))
        return found | {"samples": request["samples"]}

    found = in_processes(execute, {"out": str(tmp_path), "samples": "samples/row.npz"}, 2)
    assert found["samples"] == "samples/row.npz"
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["row.npz"]
    samples, warm_up = read_samples(tmp_path / "samples/row.npz")
    assert (samples.size, warm_up.tolist()) == (200, [1, 2, 1, 2])
    assert (samples[:100] == 100 * MS).all()


@pytest.mark.parametrize(
    ("scenario", "profile", "count"),
    [("single", "quick", 1), ("multi", "report", 5), ("server", "report", 1), ("offline", "long", 1)],
)
def test_a_report_measures_sequences_in_five_processes(scenario: str, profile: str, count: int) -> None:
    assert processes_of(scenario, PROFILES[profile]) == count
    assert PROFILES["report"].at_least_s == 30


def test_no_more_requests_are_in_flight_than_cpus_can_gain_from() -> None:
    assert row("offline").facts["in_flight"] <= 2 * len(usable_cpus())
