"""Samples as the page draws them: few enough to be opened quickly, rounded finer than any screen shows.

The raw traces stay in `samples.npz`; the page says what it left out.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bbx.benchmarks.journal import Document
from bbx.benchmarks.reports.samples import Traces
from bbx.benchmarks.stats import Samples

MOST_SAMPLES = 1_200_000
"""On one page: 3.2 MB as text, so that a page of 500 rows stays below 5 MB."""

_LEVELS = 65_535


@dataclass(frozen=True, slots=True)
class Drawn:
    """The samples of one row, each rounded to one of 65,536 levels between its fastest and its slowest.

    Attributes:
        levels: uint16 [m], in the order taken.
        low: nanoseconds of level 0.
        step: nanoseconds from one level to the next.
        of: how many samples there are in truth; more than m where every so-many-th was taken.
    """

    levels: NDArray[np.uint16]
    low: int
    step: float
    of: int

    @property
    def is_decimated(self) -> bool:
        """Whether samples are missing here."""
        return self.levels.size < self.of

    def to_json(self) -> dict[str, Any]:
        """As the page's script reads it: the levels as base64 of little-endian bytes."""
        packed = base64.b64encode(self.levels.astype("<u2").tobytes()).decode()
        return {"levels": packed, "low": self.low, "step": self.step, "of": self.of}


def drawn(rows: Sequence[Document], traces: Traces, most: int = MOST_SAMPLES) -> list[Drawn | None]:
    """The samples of each row, at most `most` of them together; None for a row without any.

    Rows with few samples keep all; the others share what is left equally.
    """
    sizes = [0 if (trace := traces(row)) is None else trace[0].size for row in rows]
    share = fair_share(sizes, most)
    return [
        quantised(trace[0], share) if (trace := traces(row)) is not None and trace[0].size else None
        for row in rows
    ]


def fair_share(sizes: Sequence[int], most: int) -> int:
    """The largest number of samples a row for which all rows together have at most `most`; at least 3."""
    left = most
    for done, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - done)
        if size > share:
            return max(3, share)
        left -= size
    return max(3, *sizes, 0)


def quantised(samples: Samples, most: int) -> Drawn:
    """At most `most` samples (at least 3), evenly spaced in time, with the fastest and the slowest."""
    kept = samples
    if samples.size > most:
        even = np.linspace(0, samples.size - 1, most - 2).round().astype(np.int64)
        kept = samples[np.unique([*even, samples.argmin(), samples.argmax()])]
    low, high = int(kept.min()), int(kept.max())
    step = (high - low) / _LEVELS or 1.0
    return Drawn(((kept - low) / step).round().astype(np.uint16), low, step, samples.size)
