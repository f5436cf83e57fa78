"""The file that benchmark-history actions read."""

from __future__ import annotations

from typing import Any

from bbx.benchmarks.conditions import RATES
from bbx.benchmarks.journal import Document
from bbx.benchmarks.reports.document import fingerprint_in, is_valid, machines


def history(report: Document) -> list[dict[str, Any]]:
    """Valid rows as `customSmallerIsBetter` of github-action-benchmark takes them.

    Each has `name`, `unit`, `value` (the median in milliseconds; where the row's result is a rate, the
    milliseconds of an image at it), `range` (how far the 95 % interval reaches) and `extra`. A row that is
    not valid is left out: a curve must not bend for a busy machine. In a report of several machines the name
    ends in the machine, so that each has a curve of its own.
    """
    names = machines(report)
    several = len(names) > 1
    return [
        {
            "name": row["key"] + (f" @ {names[fingerprint_in(report, row)]}" if several else ""),
            **_measure(row),
            "extra": f"{row['throughput_per_s']:.4g} images/s\n{row['command']}",
        }
        for row in report["results"]
        if is_valid(row)
    ]


def _measure(row: Document) -> dict[str, Any]:
    if row["scenario"] in RATES:
        return {"unit": "ms/image", "value": 1e3 / row["throughput_per_s"], "range": ""}
    latency = row["latency_ns"]
    low, high = latency["ci95"]
    reach = max(high - latency["median"], latency["median"] - low)
    return {"unit": "ms", "value": latency["median"] / 1e6, "range": f"± {reach / 1e6:.4g}"}
