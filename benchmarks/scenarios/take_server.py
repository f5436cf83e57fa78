"""Measuring the `server` scenario: the highest rate of random arrivals at which a limit holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from bbx.benchmarks.measure import Profile
from bbx.benchmarks.scenarios.server import QUERIES, WITHIN, Search, Trial, highest_rate
from bbx.benchmarks.scenarios.task import Taken, Task, warm
from bbx.benchmarks.stats import Samples, percentile
from bbx.benchmarks.units import milliseconds, significant
from bbx.benchmarks.verdicts import Reason
from bbx.errors import BbxError
from bbx.process import progress
from bbx.runners.base import Bound

_PROBE_S = 1.0
_FEWEST_PROBES = 8
_OUTCOME = {True: "met", False: "missed", None: "not known"}


def take_server(task: Task, slo_ns: int) -> Taken:
    """The most requests a second whose 99th percentile meets a limit; the trace is of requests at that rate.

    Raises:
        BbxError: no rate meets it.
    """
    start = warm(task)
    services = _unhurried(start.bound, start.run_ns)
    search = highest_rate(
        lambda: start.bound.sample(1),
        services,
        slo_ns,
        task.runner,
        cap_s=task.profile.search_cap_s,
        at_least_s=task.profile.at_least_s,
        after_trial=_teller(task.between),
    )
    if search.stopped == "unmet":
        raise _unmet(services, slo_ns, search)
    shown = search.found or search.trials[-1]
    if not shown.latencies.size:
        raise BbxError("The time was over before the first request.", hint="Use --profile report or long.")
    stopped: Literal["converged", "capped"] = "converged" if search.stopped == "converged" else "capped"
    return Taken(
        start.measurement(shown.latencies, shown.wall_ns, stopped),
        start.bound,
        search.found.rate_per_s if search.found else None,
        search_reasons(search, task.profile),
        one_at_a_time=False,
        facts={"search": _facts(search, services)},
    )


def _unhurried(bound: Bound, run_ns: float) -> Samples:
    """Service times of requests that waited for nothing."""
    return bound.sample(max(_FEWEST_PROBES, min(QUERIES, math.ceil(_PROBE_S * 1e9 / run_ns))))


def _teller(between: Callable[[], None]) -> Callable[[Trial], None]:
    tried = 0

    def told(trial: Trial) -> None:
        nonlocal tried
        tried += 1
        between()
        rate = significant(trial.rate_per_s)
        progress("search", detail=f"trial {tried}: {rate} requests/s, limit {_OUTCOME[trial.met]}")

    return told


def _unmet(services: Samples, slo_ns: int, search: Search) -> BbxError:
    alone = milliseconds(percentile(services, 99))
    seen = f"one request at a time takes up to {alone}"
    if search.trials:
        lowest = significant(min(trial.rate_per_s for trial in search.trials))
        seen = f"it is missed at {lowest} requests a second, when there is hardly any load, and {seen}"
    return BbxError(
        f"No rate meets the limit of {milliseconds(slo_ns)}: {seen}.",
        hint=f"Type a --slo well above {alone}, or use a smaller model or another precision.",
    )


def _facts(search: Search, services: Samples) -> dict[str, Any]:
    """What the row says of the search."""
    return {
        "alone_ns": float(np.median(services)),
        "stopped": search.stopped,
        "trials": [
            {
                "rate_per_s": trial.rate_per_s,
                "requests": trial.latencies.size,
                "p99_ns": trial.p99,
                "met": trial.met,
            }
            for trial in search.trials
        ],
    }


def search_reasons(search: Search, profile: Profile) -> tuple[Reason, ...]:
    """`not_converged` where time ran out."""
    if search.stopped == "converged":
        return ()
    if search.found:
        known = f"{significant(search.found.rate_per_s)} requests a second meet the limit, and more may"
    else:
        lowest = significant(min(trial.rate_per_s for trial in search.trials))
        known = f"{QUERIES} requests at {lowest} a second take longer than that"
    text = (
        f"The search for the highest rate, within {WITHIN:.0%}, ended after {profile.search_cap_s:.0f} s: "
        f"{known}."
    )
    return (Reason("not_converged", text, "Use --profile report or long, or a faster model."),)
