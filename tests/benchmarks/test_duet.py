"""Variants in turns, with runners whose clock is virtual: clean ones and such that misbehave."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from bbx.benchmarks.decide import fired
from bbx.benchmarks.duet import PAIRS, Duet, duet
from bbx.errors import BbxError
from bbx.runners.fake import FakeRunner, Fault, Latency, VirtualClock, bimodal, jitter
from bbx.types import TensorSpec

SPECS = (TensorSpec("images", "float32", (None, 4)),)
FEEDS = {"images": np.ones((1, 4), dtype=np.float32)}
MS = 1_000_000


def measured(
    base: Latency,
    head: Latency,
    *,
    twin: Latency | None = None,
    faults: Sequence[Fault] = (),
    clock: VirtualClock | None = None,
    seen: list[int] | None = None,
) -> Duet:
    clock = clock or VirtualClock()
    latencies = (base, base if twin is None else twin, head)
    runners = [
        FakeRunner(SPECS, SPECS, latency=each, clock=clock, faults=faults if index == 2 else ())
        for index, each in enumerate(latencies)
    ]
    for runner in runners:
        runner.__enter__()
    bounds = [runner.bind(FEEDS) for runner in runners]
    return duet(*bounds, now=runners[0].now, after_pair=(seen if seen is not None else []).append)


def drifting(clock: VirtualClock, ns: int, *, per_s: float) -> Callable[[int], int]:
    """Latency on a machine that gets slower, whatever runs on it."""
    return lambda _: round(ns * (1 + per_s * clock.ns / 1e9))


@pytest.mark.parametrize(
    ("head", "change"), [(MS, "same"), (round(1.05 * MS), "slower"), (round(0.95 * MS), "faster")]
)
def test_a_constant_change_is_found_exactly(head: int, change: str) -> None:
    found = measured(MS, head)
    result = found.head.finding(effect=0.02)
    assert result.change == change
    assert result.ratio == pytest.approx(head / MS)
    assert found.base_ns == MS
    assert found.control.finding(effect=0.02).change == "same"


def test_a_block_lasts_at_least_twenty_milliseconds_and_there_are_thirty_pairs() -> None:
    seen: list[int] = []
    found = measured(3 * MS, 3 * MS, seen=seen)
    assert found.runs == 7
    assert seen == list(range(1, PAIRS + 1))
    assert len(found.head.medians) == len(found.control.medians) == PAIRS == 30
    assert measured(100 * MS, 100 * MS).runs == 1


def test_blocks_of_both_last_as_long_where_one_is_much_faster() -> None:
    clock = VirtualClock()
    found = measured(MS, 50 * MS, clock=clock)
    assert found.head.finding(effect=0.02).ratio == pytest.approx(50)
    assert clock.ns < 15e9


@pytest.mark.parametrize("ratio", [1.0, 1.05])
def test_a_machine_that_gets_slower_disturbs_both_alike(ratio: float) -> None:
    clock = VirtualClock()
    base = drifting(clock, MS, per_s=0.05)
    found = measured(base, drifting(clock, round(ratio * MS), per_s=0.05), twin=base, clock=clock)
    assert found.head.finding(effect=0.02).ratio == pytest.approx(ratio, abs=0.002)
    assert not fired(found.control.finding(effect=0.02))


def test_a_competing_load_that_comes_and_goes_is_no_change() -> None:
    clock = VirtualClock()
    noise = jitter(MS, 0.02, seed=1)

    def loaded(index: int) -> int:
        return round(noise(index) * (3 if clock.ns // 500_000_000 % 2 else 1))

    found = measured(loaded, loaded, clock=clock)
    assert not fired(found.head.finding(effect=0.02))


def test_two_hundred_noisy_equals_give_no_false_alarm() -> None:
    alarms = 0
    for seed in range(100):
        found = measured(
            jitter(4 * MS, 0.1, seed=seed),
            jitter(4 * MS, 0.1, seed=seed + 1000),
            twin=jitter(4 * MS, 0.1, seed=seed + 2000),
        )
        alarms += fired(found.head.finding(effect=0.02)) + fired(found.control.finding(effect=0.02))
    assert alarms <= 1


def test_a_few_stalls_do_not_make_it_slower() -> None:
    stalls = [Fault(at=index, stall_ns=100 * MS) for index in range(1000, 1600, 150)]
    assert measured(MS, MS, faults=stalls).head.finding(effect=0.02).change == "same"


def test_runs_that_are_slow_now_and_then_are_not_called_the_same() -> None:
    found = measured(MS, bimodal(MS, 3 * MS, every=10)).head.finding(effect=0.02)
    assert found.change == "ambiguous"
    assert "the mean run is slower (1.200)" in found.reason


def test_a_control_that_differs_from_base_is_seen() -> None:
    found = measured(MS, MS, twin=round(1.1 * MS))
    assert fired(found.control.finding(effect=0.02))
    assert found.control.finding(effect=0.02).ratio == pytest.approx(1.1)


def test_an_error_on_the_way_is_not_swallowed() -> None:
    with pytest.raises(BbxError, match="the device is gone"):
        measured(MS, MS, faults=[Fault(at=700, error=BbxError("the device is gone"))])
