from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from bbx.benchmarks.measure import PROFILES, Measurement, Profile, harness_overhead_ns, measure, profile_named
from bbx.errors import BbxError, UsageError
from bbx.runners.base import Bound, sample_host_clock
from bbx.runners.fake import FakeRunner, Fault, Latency, VirtualClock, jitter
from bbx.types import TensorSpec

INPUTS = (TensorSpec("images", "float32", (None, 3, 4, 4)),)
OUTPUTS = (TensorSpec("logits", "float32", (None, 10)),)
FEEDS = {"images": np.ones((1, 3, 4, 4), dtype=np.float32)}
STEADY = Profile(
    "steady", at_least_s=3, cap_s=6, warm_up_cap_s=2, percentile=90, target={"cpu": 0.01, "cuda": 0.005}
)


def measured(
    latency: Latency, profile: Profile = STEADY, *, device: str = "cpu", faults: tuple[Fault, ...] = ()
) -> Measurement:
    with FakeRunner(INPUTS, OUTPUTS, latency=latency, faults=faults) as runner:
        return measure(runner.bind(FEEDS), device, profile, now=runner.now)


def test_a_steady_runner_is_measured_for_the_profiles_time() -> None:
    found = measured(jitter(1_000_000, 0.02))
    assert found.stopped == "converged"
    assert found.settled
    assert 3e9 <= found.wall_ns < 3.3e9
    assert found.summary.median == pytest.approx(1e6, rel=0.01)
    assert found.runs_per_s == pytest.approx(1000, rel=0.01)


def test_no_sample_is_dropped_and_the_warm_up_is_kept_apart() -> None:
    latency = jitter(2_000_000, 0.1)
    found = measured(latency)
    taken = np.concatenate([found.warm_up, found.samples])
    assert taken.tolist() == [latency(index) for index in range(taken.size)]
    assert int(found.samples.sum()) == found.wall_ns


def test_warm_up_goes_on_until_the_speed_has_settled() -> None:
    found = measured(lambda index: max(1_000_000, 5_000_000 - 20_000 * index))
    assert found.settled
    assert found.warm_up[0] == 5_000_000
    assert found.samples.max() == 1_000_000


def test_warm_up_takes_at_least_a_fifth_of_a_second() -> None:
    assert measured(10_000).warm_up.sum() >= 0.2e9


def test_warm_up_that_never_settles_ends_at_its_cap() -> None:
    found = measured(lambda index: 1_000_000 + 20_000 * index)
    assert not found.settled
    assert 2e9 <= found.warm_up.sum() < 2.3e9


def test_a_median_that_is_not_known_well_enough_runs_into_the_cap() -> None:
    noisy = jitter(30_000_000, 0.5)
    found = measured(noisy)
    assert found.stopped == "capped"
    assert 6e9 <= found.wall_ns < 6.3e9
    assert found.summary.ci95 is not None
    assert found.summary.ci95.reach(found.summary.median) > found.target


def test_sampling_waits_for_the_percentile_that_the_profile_shows() -> None:
    slow = jitter(60_000_000, 0.001)
    assert measured(slow).samples.size >= 64
    patient = replace(STEADY, percentile=99, cap_s=60)
    assert measured(slow, patient).samples.size >= 662


def test_a_capped_run_shows_only_what_its_samples_allow() -> None:
    found = measured(jitter(700_000_000, 0.001))
    assert found.stopped == "capped"
    assert found.samples.size == 9
    assert (found.summary.p90, found.summary.p99) == (None, None)


def test_a_quick_row_takes_between_one_second_and_three() -> None:
    quick = PROFILES["quick"]
    assert 1e9 <= measured(jitter(1_000_000, 0.02), quick).wall_ns < 1.2e9
    assert 3e9 <= measured(jitter(30_000_000, 0.5), quick).wall_ns < 3.2e9


@pytest.mark.parametrize(("run_ns", "runs"), [(2_000_000_000, 2), (7_000_000_000, 1)])
def test_a_slow_network_is_run_once_to_warm_up_and_until_the_cap(run_ns: int, runs: int) -> None:
    found = measured(run_ns, PROFILES["quick"])
    assert (found.warm_up.size, found.samples.size) == (1, runs)
    assert (found.stopped, found.settled, found.summary.ci95) == ("capped", False, None)


def test_a_gpu_is_measured_twice_as_exactly() -> None:
    assert measured(1_000_000, device="cuda").target == measured(1_000_000).target / 2


def test_an_error_of_the_runner_is_not_swallowed() -> None:
    with pytest.raises(BbxError, match="the device is gone"):
        measured(1_000_000, faults=(Fault(at=500, error=BbxError("the device is gone")),))


def test_the_watch_is_called_between_chunks_of_about_100_ms() -> None:
    clock = VirtualClock()
    seen: list[int] = []
    with FakeRunner(INPUTS, OUTPUTS, latency=700_000, clock=clock) as runner:
        measure(runner.bind(FEEDS), "cpu", STEADY, now=runner.now, between=lambda: seen.append(clock.ns))
    gaps = np.diff(seen)
    assert gaps.size > 20
    assert (abs(gaps - 100_000_000) < 1_000_000).all()


def test_a_real_step_is_timed_as_a_hand_written_loop_times_it() -> None:
    def step() -> None:
        end = time.perf_counter_ns() + 300_000
        while time.perf_counter_ns() < end:
            pass

    profile = replace(STEADY, at_least_s=0.4, cap_s=0.8, warm_up_cap_s=0.4)
    bound = Bound(step, lambda count: sample_host_clock(step, count), "perf_counter_ns", dict)
    found = measure(bound, "cpu", profile)
    by_hand = []
    for _ in range(500):
        start = time.perf_counter_ns()
        step()
        by_hand.append(time.perf_counter_ns() - start)
    assert found.summary.min == pytest.approx(min(by_hand), rel=0.02)


def test_the_harness_adds_little_to_reading_the_clock_twice() -> None:
    pairs = []
    for _ in range(20_000):
        start = time.perf_counter_ns()
        pairs.append(time.perf_counter_ns() - start)
    assert harness_overhead_ns() < 10 * max(float(np.median(pairs)), 20.0)


def test_an_unknown_profile_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'quik'.*quick"):
        profile_named("quik")
