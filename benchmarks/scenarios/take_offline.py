"""Measuring the `offline` scenario: how much is done a second when all work is there from the beginning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from bbx.benchmarks.contention import usable_cpus
from bbx.benchmarks.measure import Profile
from bbx.benchmarks.scenarios.offline import (
    Flood,
    Rate,
    best_in_flight,
    flood,
    flood_stream,
    joined,
    rate_interval,
    trial_seconds,
)
from bbx.benchmarks.scenarios.task import Taken, Task, Warm, warm
from bbx.benchmarks.verdicts import Reason

_TIMES_CPUS = 2
"""Requests in flight that are tried, at most, for each CPU."""

_STREAM_S = 0.1

Some = Callable[[float], Flood]
"""Does work for so many seconds."""


def take_offline(task: Task) -> Taken:
    """As many requests in flight as it takes to do the most work."""
    start = warm(task)
    in_flight, some = _on_host(start) if task.runner.device == "cpu" else (None, _on_device(start))
    done, rate, stopped = _until_known(some, task)
    measured = start.measurement(done.latencies, done.wall_ns, stopped)
    facts = {
        "in_flight": in_flight,
        "requests_per_s": {"value": done.rate_per_s, "ci95": [rate.low, rate.high] if rate else None},
    }
    reasons = tuple(rate_reasons(rate, measured.target, done.gaps.size))
    return Taken(measured, start.bound, done.rate_per_s, reasons, one_at_a_time=False, facts=facts)


def _on_host(start: Warm) -> tuple[int, Some]:
    """The best number of requests in flight, and what keeps as many."""
    task, bounds = start.task, [start.bound]
    seconds = trial_seconds(start.run_ns, task.profile.cap_s)

    def shortly(count: int) -> Flood:
        while len(bounds) < count:
            bounds.append(task.bind())
        return flood([each.step for each in bounds[:count]], seconds, task.runner.now)

    best = best_in_flight(shortly, most=_TIMES_CPUS * len(usable_cpus()))
    steps = [each.step for each in bounds[:best]]
    return best, lambda seconds: flood(steps, seconds, task.runner.now)


def _on_device(start: Warm) -> Some:
    """What keeps a GPU's stream full, with a wait after about every tenth of a second."""
    now, runs = start.task.runner.now, max(1, round(_STREAM_S * 1e9 / start.run_ns))

    def some(seconds: float) -> Flood:
        begun, parts = now(), [flood_stream(start.bound, runs, now)]
        while now() - begun < seconds * 1e9:
            parts.append(flood_stream(start.bound, runs, now))
        return joined(parts)

    return some


def _until_known(some: Some, task: Task) -> tuple[Flood, Rate | None, Literal["converged", "capped"]]:
    """Go on in parts of the profile's least time until the rate is known, or the profile's cap."""
    profile: Profile = task.profile
    target = profile.target[task.runner.device]
    parts: list[Flood] = []
    while True:
        parts.append(some(profile.at_least_s))
        task.between()
        done = joined(parts)
        rate = rate_interval(done.gaps)
        if rate is not None and rate.reach <= target:
            return done, rate, "converged"
        if len(parts) * profile.at_least_s >= profile.cap_s:
            return done, rate, "capped"


def rate_reasons(rate: Rate | None, target: float, requests: int) -> list[Reason]:
    """`not_converged` where the throughput is not known well enough."""
    if rate is not None and rate.reach <= target:
        return []
    known = f"is known to ±{rate.reach:.1%}" if rate else f"of {requests} requests has no interval"
    text = f"The throughput {known}, and ±{target:.1%} was wanted."
    return [Reason("not_converged", text, "Use --profile report or long, or a quieter machine.")]
