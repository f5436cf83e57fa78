"""The `server` scenario: requests come in when they come in, and the result is how many a second it bears.

After the server scenario of MLPerf Inference's LoadGen: arrivals are a Poisson process from a fixed seed, and
a latency counts from the moment that the request was due. A harness that waits for an answer before it asks
again hides every request that would have waited (coordinated omission); here they are in the trace.

One request is served at a time, in the order of arrival, and requests are not put together into batches: a
request has the row's batch. So the loop that serves is the queue: what is overdue is served at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from bbx.benchmarks.scenarios.arrivals import (
    Schedule,
    at_rate,
    late_allowed,
    poisson_schedule,
    predicted_rate,
)
from bbx.benchmarks.stats import SAMPLES_NEEDED, Samples, percentile

QUERIES = SAMPLES_NEEDED[99]
"""Requests of a trial, at least: what a 99th percentile takes."""

SEED = 20_000
WITHIN = 0.05
"""The rate that was found and the lowest that failed are no further apart than this."""

_FIRST_STEP = 1.1
_IDLE_SHARE = 0.01
"""A limit that is missed while the server is idle 99 % of the time is not missed for the load."""


class Clock(Protocol):
    """What a server lives by; a runner is one."""

    def now(self) -> int:
        """Nanoseconds since some moment."""

    def wait_until(self, ns: int) -> None:
        """Return when `now` is at least `ns`."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of the requests at one rate.

    Attributes:
        rate_per_s: requests that were due a second.
        latencies: int64 [n], nanoseconds from when each was due, in that order.
        wall_ns: from the beginning to the last answer.
        met: whether their 99th percentile met the limit; None where time ran out before that was known.
    """

    rate_per_s: float
    latencies: Samples
    wall_ns: int
    met: bool | None

    @property
    def p99(self) -> int | None:
        """Of the requests that were served; a trial that failed was ended early."""
        return percentile(self.latencies, 99) if self.latencies.size else None


def offer(
    serve: Callable[[], object],
    schedule: Schedule,
    rate_per_s: float,
    slo_ns: int,
    clock: Clock,
    *,
    deadline_ns: float = math.inf,
) -> Trial:
    """Serve requests as they come in.

    It ends as soon as so many were late that the percentile of all could not meet the limit any more.

    Args:
        serve: answers one request, and returns when the answer is complete.
        deadline_ns: by the clock; no request is begun after it.
    """
    begun = clock.now()
    spare = late_allowed(schedule.size)
    latencies: list[int] = []
    met: bool | None = True
    for due in (begun + at_rate(schedule, rate_per_s)).tolist():
        now = clock.now()
        if now >= deadline_ns:
            met = None
            break
        if now < due:
            clock.wait_until(due)
        serve()
        latencies.append(clock.now() - due)
        spare -= latencies[-1] > slo_ns
        if spare < 0:
            met = False
            break
    return Trial(rate_per_s, np.array(latencies, dtype=np.int64), clock.now() - begun, met)


Attempt = Callable[[float, int], Trial]
"""Tries a rate on the schedule of a number."""


@dataclass(frozen=True, slots=True)
class Search:
    """How the highest rate was looked for.

    Attributes:
        found: the trial whose rate is the result; None where no rate met the limit in time.
        trials: all of them, in order.
        stopped: `converged`; `capped` where time ran out; `unmet` where no rate will meet the limit.
    """

    found: Trial | None
    trials: tuple[Trial, ...]
    stopped: Literal["converged", "capped", "unmet"]


def find_rate(attempt: Attempt, first: float, least: float) -> Search:
    """Look for the highest rate that meets the limit: in growing steps until it is enclosed, then by halves.

    All of these trials have one schedule. What they find is chosen because it passed on it, so the result has
    to pass on another one too; where it does not, the next lower rate is tried on a further one.

    Args:
        first: rate to begin with.
        least: a rate so low that a limit missed there is missed for good.
    """
    trials: list[Trial] = []

    def tried(rate: float, schedule: int) -> Trial:
        trials.append(attempt(rate, schedule))
        return trials[-1]

    passed, failed = _enclosed(tried, first, least)
    while passed and failed and failed > passed.rate_per_s * (1 + WITHIN):
        trial = tried(math.sqrt(failed * passed.rate_per_s), 0)
        if trial.met is None:
            return Search(passed, tuple(trials), "capped")
        passed, failed = (trial, failed) if trial.met else (passed, trial.rate_per_s)
    if passed is None or trials[-1].met is None:
        return Search(passed, tuple(trials), "capped" if trials[-1].met is None else "unmet")
    return _confirmed(tried, passed, trials, least)


def _enclosed(tried: Attempt, first: float, least: float) -> tuple[Trial | None, float | None]:
    """A trial that passed and a rate that failed, as far as time and `least` allow."""
    passed: Trial | None = None
    failed: float | None = None
    rate, step = max(first, least), _FIRST_STEP
    while passed is None or failed is None:
        trial = tried(rate, 0)
        if trial.met is None:
            break
        if trial.met:
            passed = trial
            rate *= step
        else:
            failed = rate
            if rate <= least:
                break
            rate = max(rate / step, least)
        step *= step
    return passed, failed


def _confirmed(tried: Attempt, passed: Trial, trials: list[Trial], least: float) -> Search:
    rate, schedule = passed.rate_per_s, 1
    while rate >= least:
        trial = tried(rate, schedule)
        if trial.met:
            return Search(trial, tuple(trials), "converged")
        if trial.met is None:
            return Search(passed, tuple(trials), "capped")
        rate, schedule = rate / (1 + WITHIN), schedule + 1
    return Search(None, tuple(trials), "unmet")


def highest_rate(
    serve: Callable[[], object],
    services: Samples,
    slo_ns: int,
    clock: Clock,
    *,
    cap_s: float,
    at_least_s: float = 0.0,
    after_trial: Callable[[Trial], None] = lambda _: None,
) -> Search:
    """The most requests a second whose 99th percentile meets a limit.

    Args:
        serve: answers one request, and returns when the answer is complete.
        services: int64 [m], nanoseconds of requests that waited for nothing; the search begins at the rate
            that a simulated queue bears with them.
        slo_ns: the limit, from when a request was due until it is answered.
        cap_s: no request is begun after this.
        at_least_s: how long a trial lasts at least.
    """
    if np.count_nonzero(services > slo_ns) > late_allowed(QUERIES):
        return Search(None, (), "unmet")
    deadline_ns = clock.now() + cap_s * 1e9

    def attempt(rate: float, number: int) -> Trial:
        count = max(QUERIES, math.ceil(rate * at_least_s))
        schedule = poisson_schedule(count, seed=SEED + number)
        trial = offer(serve, schedule, rate, slo_ns, clock, deadline_ns=deadline_ns)
        after_trial(trial)
        return trial

    first = predicted_rate(services, poisson_schedule(QUERIES, seed=SEED), slo_ns)
    least = _IDLE_SHARE * 1e9 / float(services.mean())
    return find_rate(attempt, first, least)
