"""What setting the number of threads brings, from the rows of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bbx.benchmarks.conditions import RATES
from bbx.benchmarks.journal import Document

_SAME = ("subject", "runtime", "precision", "batch", "scenario", "cache", "residence", "environment")


@dataclass(frozen=True, slots=True)
class Tuned:
    """The same work with the runtime's own number of threads, and with the best that was tried.

    Attributes:
        best: may be the default itself.
    """

    default: Document
    best: Document

    @property
    def gain(self) -> float:
        """How many times as fast the best is, by the medians."""
        ratio: float = self.default["latency_ns"]["median"] / self.best["latency_ns"]["median"]
        return ratio


def tuned(rows: Sequence[Document]) -> list[Tuned]:
    """What each sweep found. Rows without a measurement, and those whose result is a rate, are none."""
    sweeps: dict[tuple[object, ...], list[Document]] = {}
    for row in rows:
        if row["latency_ns"] and row["scenario"] not in RATES:
            sweeps.setdefault(tuple(row.get(name) for name in _SAME), []).append(row)
    found = []
    for sweep in sweeps.values():
        default = next((row for row in sweep if row.get("threads_asked") is None), None)
        if default is not None and len({row.get("threads_asked") for row in sweep}) > 1:
            found.append(Tuned(default, min(sweep, key=lambda row: float(row["latency_ns"]["median"]))))
    return found
