"""Measuring one bound inference: warm up, sample in chunks, and know when to stop.

The clock belongs to the runner (`Bound.sample`); nothing of this module runs inside it. Every sample
is kept, those of the warm-up apart from the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bbx.benchmarks.contention import Load, load_between, read_counters, usable_cpus
from bbx.benchmarks.stats import SAMPLES_NEEDED, Samples, Summary, median_interval, summarise
from bbx.errors import UsageError, did_you_mean
from bbx.runners.base import Bound, sample_host_clock

_CHUNK_NS = 100_000_000
"""Between two chunks the harness may look at the trace; within one there is only the runtime."""

_WARM_UP_NS = 200_000_000
_WINDOW_RUNS = 3
_SETTLED = 0.01
_GROWTH = 1.1
"""After an interval that was too wide, the trace grows by a tenth before the next look."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How long and how exactly to measure.

    Attributes:
        at_least_s: sampling goes on for this long.
        cap_s: and never longer than this (one run may overshoot it).
        warm_up_cap_s: the same for the warm-up.
        percentile: highest percentile that sampling waits for (see `stats.SAMPLES_NEEDED`), or None for none:
            one that too few samples support is not shown.
        target: 95 % interval of the median within this share of it, by device.
        processes: that measure a row, one after another; see `pooling`. `offline` and `server` have one.
        search_cap_s: the scenario `server` looks for its rate no longer than this.
    """

    name: str
    at_least_s: float
    cap_s: float
    warm_up_cap_s: float
    percentile: int | None
    target: dict[str, float]
    processes: int = 1
    search_cap_s: float = 60


_TARGET = {"cpu": 0.01, "cuda": 0.005}

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("quick", at_least_s=1, cap_s=3, warm_up_cap_s=0.5, percentile=None, target=_TARGET),
        Profile("report", 30, 60, 10, percentile=99, target=_TARGET, processes=5, search_cap_s=300),
        Profile("long", 60, 300, 30, percentile=99, target=_TARGET, processes=5, search_cap_s=900),
    )
}


def profile_named(name: str) -> Profile:
    """The profile with this name.

    Raises:
        UsageError: there is none.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise UsageError(f"There is no profile {name!r}.", hint=did_you_mean(name, PROFILES)) from None


@dataclass(frozen=True, slots=True)
class Measurement:
    """A trace and how it came about.

    Attributes:
        samples: int64 [n], nanoseconds, in the order taken, none left out.
        warm_up: int64 [m], those before the measurement began.
        settled: whether the last two windows of the warm-up agreed within 1 %.
        wall_ns: host time spent sampling; warm-up, looks at the trace and what `idle` counts excluded.
        target: how near the interval of the median had to come, as a share of it.
        stopped: `converged` when every demand of the profile was met, else `capped`.
        summary: of `samples`.
        load: what the machine did meanwhile.
    """

    samples: Samples
    warm_up: Samples
    settled: bool
    wall_ns: int
    clock: str
    target: float
    stopped: Literal["converged", "capped"]
    summary: Summary
    load: Load

    @property
    def runs_per_s(self) -> float:
        """Runs a second of host time."""
        return self.samples.size / (self.wall_ns / 1e9)


def measure(
    bound: Bound,
    device: str,
    profile: Profile,
    *,
    now: Callable[[], int] = time.perf_counter_ns,
    between: Callable[[], None] = lambda: None,
    idle: Callable[[], int] = lambda: 0,
    seed: int = 0,
) -> Measurement:
    """Warm up and sample until the profile's demands are met, or its cap.

    Args:
        device: `cpu` or `cuda`; decides how exact the median must be.
        now: host clock in nanoseconds; a runner with a virtual clock brings its own.
        between: called after each chunk of the measurement, about every 100 ms.
        idle: nanoseconds that the harness has spent between runs so far; they count towards the profile's
            times, and not towards the throughput.
        seed: of the bootstrap.
    """
    target = profile.target[device]
    chunks = _chunks(bound, now)
    needed = SAMPLES_NEEDED[profile.percentile] if profile.percentile else 1
    warm_up, settled, runs = _warm_up(chunks, profile)
    before, idle_before = read_counters(), idle()
    collected: list[Samples] = []
    wall = count = 0
    next_look = profile.at_least_s * 1e9
    stopped: Literal["converged", "capped"] = "capped"
    while wall < profile.cap_s * 1e9:
        chunk, spent = chunks(runs)
        collected.append(chunk)
        wall, count = wall + spent, count + chunk.size
        between()
        if wall >= next_look and count >= needed:
            interval = median_interval(samples := np.concatenate(collected), seed=seed)
            if interval is not None and interval.reach(float(np.median(samples))) <= target:
                stopped = "converged"
                break
            next_look = wall * _GROWTH
    load = load_between(before, read_counters(), cores=len(usable_cpus()))
    samples = np.concatenate(collected)
    return Measurement(
        samples=samples,
        warm_up=warm_up,
        settled=settled,
        wall_ns=wall - (idle() - idle_before),
        clock=bound.clock,
        target=target,
        stopped=stopped,
        summary=summarise(samples, seed=seed),
        load=load,
    )


Chunks = Callable[[int], tuple[Samples, int]]
"""Takes a number of runs; gives their durations and the host time that all of them took."""


def _chunks(bound: Bound, now: Callable[[], int]) -> Chunks:
    def take(runs: int) -> tuple[Samples, int]:
        start = now()
        samples = bound.sample(runs)
        return samples, max(now() - start, 1)

    return take


def warmed_up(bound: Bound, profile: Profile, now: Callable[[], int]) -> tuple[Samples, bool]:
    """Run until the speed has settled, or the profile's cap; gives the samples, and whether it has."""
    samples, settled, _ = _warm_up(_chunks(bound, now), profile)
    return samples, settled


def _warm_up(chunks: Chunks, profile: Profile) -> tuple[Samples, bool, int]:
    """Run until the speed has settled.

    Returns:
        The samples, whether the last two windows agreed, and how many runs make a chunk.
    """
    windows: list[Samples] = []
    spent = 0
    runs = 1
    for window, took in _windows(chunks):
        windows.append(window)
        spent += took
        runs = max(1, round(_CHUNK_NS * window.size / took))
        if len(windows) > 1 and spent >= _WARM_UP_NS and _agree(windows[-2], windows[-1]):
            return np.concatenate(windows), True, runs
        if spent >= profile.warm_up_cap_s * 1e9:
            break
    return np.concatenate(windows), False, runs


def warm_up(bound: Bound, profile: Profile, *, now: Callable[[], int] = time.perf_counter_ns) -> float:
    """Run until the speed has settled, or the profile's cap; gives nanoseconds a run at the end."""
    samples, _, runs = _warm_up(_chunks(bound, now), profile)
    return max(1.0, float(np.median(samples[-runs:])))


def _windows(chunks: Chunks) -> Iterator[tuple[Samples, int]]:
    """Windows of at least three runs and, once the speed is known, of about 100 ms."""
    first, took = chunks(1)
    yield first, took
    runs = _WINDOW_RUNS
    while True:
        window, took = chunks(runs)
        yield window, took
        per_run = took / runs
        # A first guess may be far too slow (lazy initialisation), so windows grow by steps.
        runs = max(_WINDOW_RUNS, min(round(_CHUNK_NS / per_run), runs * 32))


def _agree(earlier: Samples, later: Samples) -> bool:
    before, after = float(np.median(earlier)), float(np.median(later))
    return abs(after - before) < _SETTLED * after


def harness_overhead_ns(runs: int = 20_000) -> float:
    """What the harness adds to one run, in nanoseconds: the median of an empty step."""
    return float(np.median(sample_host_clock(lambda: None, runs)))
