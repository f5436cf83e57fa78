from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bbx.benchmarks.contention import Load
from bbx.benchmarks.readiness import undone_ns
from bbx.benchmarks.roof import Floor
from bbx.benchmarks.runner_faults import (
    completion_reasons,
    first_run_reasons,
    roofline_reasons,
    waiting_reasons,
)
from bbx.runners.fake import FakeRunner
from bbx.types import TensorSpec

FLOOR = Floor(ns=1_000_000, flops=8_000_000_000, peak=8e12, machine="2 CPUs at 6.5 GHz")
LOAD = Load(
    seconds=3.0,
    cores=4,
    own_cores=0.2,
    other_cores=0.5,
    steal_share=0.0,
    throttled_share=0.0,
    involuntary_per_s=30.0,
    thermal_events=0,
    clock_ratio=1.0,
)
SPECS = (TensorSpec("x", "float32", (None, 4)),)


def test_a_run_below_the_roofline_is_inconsistent() -> None:
    [reason] = roofline_reasons(999_999, FLOOR)
    assert reason.verdict == "inconsistent"
    assert "2 CPUs at 6.5 GHz need at least 1.000 ms for 8 GFLOPs (8 TFLOP/s at most)" in reason.text


@pytest.mark.parametrize(
    ("median", "floor", "clock"),
    [(1_000_000, FLOOR, "perf_counter_ns"), (1, None, "perf_counter_ns"), (1, FLOOR, "virtual")],
)
def test_a_run_above_it_or_without_one_is_not(median: float, floor: Floor | None, clock: str) -> None:
    assert roofline_reasons(median, floor, clock) == []


@pytest.mark.parametrize(
    ("median", "undone", "clock", "told"),
    [
        (1_000_000, 200_000, "perf_counter_ns", True),
        (1_000_000, 199_999, "perf_counter_ns", False),
        (10_000, 100_000, "virtual", True),
        (10_000, 99_999, "perf_counter_ns", False),  # the allocator takes that long
        (1_000_000, -5_000, "perf_counter_ns", False),
        (1_000_000, 900_000, "cuda_event", False),
    ],
)
def test_work_that_is_left_to_the_reader_is_told(median: float, undone: int, clock: str, told: bool) -> None:
    assert [reason.verdict for reason in completion_reasons(median, undone, clock)] == (
        ["inconsistent"] if told else []
    )


@pytest.mark.parametrize(
    ("change", "clock", "told"),
    [
        ({}, "perf_counter_ns", True),
        ({"other_cores": None}, "perf_counter_ns", True),
        ({"own_cores": 0.5}, "perf_counter_ns", False),
        ({"other_cores": 3.4}, "perf_counter_ns", False),
        ({"seconds": 0.4}, "perf_counter_ns", False),
        ({}, "cuda_event", False),
        ({}, "virtual", False),
    ],
)
def test_runs_that_wait_while_cpus_are_idle_are_told(
    change: dict[str, float | None], clock: str, told: bool
) -> None:
    found = waiting_reasons(replace(LOAD, **change), clock)
    assert bool(found) == told
    if found and change.get("other_cores", 0.5) is not None:
        assert "kept 0.20 CPUs busy and left 3.30 of 4 idle" in found[0].text


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ([3_100, 1_000, 1_000, 1_000, 900], True),
        ([1_000, 1_000, 3_100, 1_000, 900], True),
        ([1_000, 1_000, 1_000, 3_100, 900], False),
        ([3_000, 1_000, 1_000, 1_000, 900], False),
        ([9_000, 1_000, 1_000], False),
    ],
)
def test_a_first_run_far_above_all_later_ones_is_told(samples: list[int], told: bool) -> None:
    assert bool(first_run_reasons(np.array(samples, dtype=np.int64))) == told


@pytest.mark.parametrize(("deferred", "calls"), [(0, 3), (700_000, 3)])
def test_what_is_undone_is_what_the_first_reading_takes_longer(deferred: int, calls: int) -> None:
    with FakeRunner(SPECS, SPECS, deferred_ns=deferred) as runner:
        bound = runner.bind({"x": np.ones((1, 4), dtype=np.float32)})
        assert undone_ns(bound, 1e6, now=runner.now) == deferred
        assert runner.calls == calls


def test_a_slow_network_is_looked_at_once() -> None:
    with FakeRunner(SPECS, SPECS, latency=200_000_000) as runner:
        bound = runner.bind({"x": np.ones((1, 4), dtype=np.float32)})
        assert undone_ns(bound, 2e8, now=runner.now) == 0
        assert runner.calls == 1
