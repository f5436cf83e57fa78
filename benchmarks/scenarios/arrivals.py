"""When requests arrive, and what a queue makes of them: pure functions over nanoseconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bbx.benchmarks.stats import Samples, percentile

Schedule = NDArray[np.float64]
"""Arrival times [n] of a Poisson process of one request a second, in seconds."""


def poisson_schedule(count: int, *, seed: int) -> Schedule:
    """Arrivals at unit rate, whose gaps are independent and exponential.

    A longer schedule of the same seed begins with the shorter one. At another rate the same schedule is
    stretched (`at_rate`), so that all rates are judged on the same bursts and the higher never looks the
    better: common random numbers (Law, "Simulation Modeling and Analysis", chapter 11).
    """
    return np.cumsum(np.random.default_rng(seed).standard_exponential(count))


def at_rate(schedule: Schedule, rate_per_s: float) -> Samples:
    """Arrivals in nanoseconds, int64 [n], when so many requests a second arrive."""
    return np.rint(schedule * (1e9 / rate_per_s)).astype(np.int64)


def fifo_latencies(arrivals: Samples, services: Samples) -> Samples:
    """Latencies from arrival to completion of requests that one server takes in turn, int64 [n].

    A request begins when it has arrived and the one before it is done (Lindley, "The theory of queues with a
    single server", Mathematical Proceedings of the Cambridge Philosophical Society 48, 1952).
    """
    served = np.cumsum(services)
    completions = served + np.maximum.accumulate(arrivals - (served - services))
    return completions - arrivals


def late_allowed(count: int, rank: int = 99) -> int:
    """How many of so many requests may be late while their nearest-rank percentile is not."""
    return count - -(-rank * count // 100)


def predicted_rate(services: Samples, schedule: Schedule, slo_ns: int, *, rank: int = 99) -> float:
    """The highest rate at which a simulated queue meets a limit, in requests a second.

    It is where a search begins, not what it finds. The service times are drawn from those that were seen,
    from a fixed seed; the rate is at most what the server can do without a pause.

    Args:
        services: int64 [m], nanoseconds of requests that waited for nothing.
    """
    drawn = np.random.default_rng(0).choice(services, schedule.size)
    most = 1e9 / float(services.mean())
    low, high = 0.0, 1.0
    for _ in range(20):
        share = (low + high) / 2
        late = percentile(fifo_latencies(at_rate(schedule, share * most), drawn), rank) > slo_ns
        low, high = (low, share) if late else (share, high)
    return most * max(low, 1e-3)
