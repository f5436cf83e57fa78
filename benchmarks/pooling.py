"""One row from several processes.

A process has a speed of its own: where its memory lies and which threads share a core are drawn when it
starts. One process, however long it runs, sees one draw. So a row of several processes has the mean of their
medians, and an interval that comes from how far these lie apart, which is all that varies from one to the
next (Kalibera & Jones, "Rigorous benchmarking in reasonable time", ISMM 2013).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bbx.benchmarks.journal import Document, read_samples, write_samples
from bbx.benchmarks.measure import Profile
from bbx.benchmarks.parity import worst
from bbx.benchmarks.stats import Interval, Samples, summarise
from bbx.benchmarks.student import quantile
from bbx.benchmarks.verdicts import DRIFT, Reason, verdict_of


def processes_of(scenario: str, profile: Profile) -> int:
    """How many processes measure a row: one where the result is a rate, which is looked for once."""
    return profile.processes if scenario in ("single", "multi") else 1


@dataclass(frozen=True, slots=True)
class Pooled:
    """The medians of several processes as one.

    Attributes:
        median: their mean, nanoseconds.
        ci95: Student's interval of that mean.
        spread: their standard deviation, as a share of the mean.
    """

    median: float
    ci95: Interval
    spread: float


def pool_medians(medians: Sequence[float]) -> Pooled:
    """Pool the medians of several processes.

    Raises:
        ValueError: there are fewer than two.
    """
    if len(medians) < 2:
        raise ValueError(f"{len(medians)} processes cannot be pooled")
    mean, deviation = statistics.fmean(medians), statistics.stdev(medians)
    reach = quantile(0.95, len(medians) - 1) * deviation / math.sqrt(len(medians))
    return Pooled(mean, Interval(math.floor(mean - reach), math.ceil(mean + reach)), deviation / mean)


def in_processes(execute: Callable[[Document], Document], request: Document, count: int) -> Document:
    """Measure a row in several processes, one after another, and pool them; their traces become one.

    Args:
        execute: measures it in one process, given its request.

    Raises:
        BbxError: one of them cannot measure it.
    """
    out = Path(request["out"])
    names = [f"{request['samples'].removesuffix('.npz')}.{number}.npz" for number in range(count)]
    # One process says how good the answers are; the others only how long they take.
    again = {name: value for name, value in request.items() if name != "data"}
    requests = [request, *[again] * (count - 1)]
    rows = [execute(each | {"samples": name}) for each, name in zip(requests, names, strict=True)]
    traces = [read_samples(out / name) for name in names]
    samples, warm_up = (np.concatenate(parts) for parts in zip(*traces, strict=True))
    write_samples(out / request["samples"], samples, warm_up)
    for name in names:
        (out / name).unlink()
    return pooled_row(rows, samples) | {"samples": request["samples"]}


def pooled_row(rows: Sequence[Document], samples: Samples) -> Document:
    """One row from those of several processes that measured the same.

    Args:
        rows: as `row.row_task` gives them, each with a measurement.
        samples: int64 [n], of all processes, in order.
    """
    found = pool_medians([row["latency_ns"]["median"] for row in rows])
    summary = asdict(summarise(samples))
    runs = summary.pop("n")
    reasons = _reasons(rows, found)
    first = rows[0]
    seconds = sum(row["runs"] * row["batch"] / row["throughput_per_s"] for row in rows)
    peaks = [row["peak_bytes"] for row in rows if row["peak_bytes"] is not None]
    return {
        **first,
        "verdict": verdict_of(reasons),
        "reasons": [reason.to_json() for reason in reasons],
        "latency_ns": summary | {"median": found.median, "ci95": [found.ci95.low, found.ci95.high]},
        "throughput_per_s": runs * first["batch"] / seconds,
        "peak_bytes": max(peaks, default=None),
        "parity": worst(row["parity"] for row in rows),
        "runs": runs,
        "stopped": "converged" if all(row["stopped"] == "converged" for row in rows) else "capped",
        "warm_up": {
            "runs": sum(row["warm_up"]["runs"] for row in rows),
            "seconds": sum(row["warm_up"]["seconds"] for row in rows),
            "settled": all(row["warm_up"]["settled"] for row in rows),
        },
        "load": _load([row["load"] for row in rows]),
        "processes": [_process(row) for row in rows],
        "between_processes": found.spread,
    }


def _process(row: Document) -> dict[str, Any]:
    """What a pooled row says of one process; its samples follow those of the one before."""
    latency = row["latency_ns"]
    return {
        "median": latency["median"],
        "ci95": latency["ci95"],
        **{name: row[name] for name in ("runs", "stopped", "verdict", "load")},
    }


def _reasons(rows: Sequence[Document], found: Pooled) -> list[Reason]:
    """What each process said but of convergence, which is judged anew, and whether they disagree."""
    reasons = [
        Reason(each["verdict"], f"Process {number} of {len(rows)}: {each['text']}", each["remedy"])
        for number, row in enumerate(rows, 1)
        for each in row["reasons"]
        if each["verdict"] != "not_converged"
    ]
    medians = [row["latency_ns"]["median"] for row in rows]
    apart = max(medians) / min(medians) - 1
    if apart > DRIFT:
        reasons.append(
            Reason(
                "unstable",
                f"The medians of {len(rows)} processes differ by up to {apart:.0%}.",
                "Pin the threads (`taskset`), fix the clocks, and measure again.",
            )
        )
    reach, target = found.ci95.reach(found.median), rows[0]["target"]
    if reach > target:
        reasons.append(
            Reason(
                "not_converged",
                f"The median is known to ±{reach:.1%} over {len(rows)} processes, and ±{target:.1%} was "
                "wanted.",
                "Use --profile long, or a quieter machine.",
            )
        )
    return reasons


def _load(loads: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What else the machine did: averages over the time of all processes; the lowest clock."""
    seconds = [load["seconds"] for load in loads]

    def over_time(name: str) -> float | None:
        values = [load[name] for load in loads]
        return None if None in values else float(np.average(values, weights=seconds))

    shares = ("own_cores", "other_cores", "steal_share", "throttled_share", "involuntary_per_s")
    events = [load["thermal_events"] for load in loads]
    ratios = [load["clock_ratio"] for load in loads]
    return {
        "seconds": sum(seconds),
        "cores": loads[0]["cores"],
        **{name: over_time(name) for name in shares},
        "thermal_events": None if None in events else sum(events),
        "clock_ratio": None if None in ratios else min(ratios),
    }
