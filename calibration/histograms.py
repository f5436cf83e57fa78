"""Histograms of magnitudes whose bins are the leading bits of the numbers themselves.

The bits of a positive IEEE float, read as an integer, grow with the float. Their top bits (the exponent and
nine bits of the mantissa) therefore number bins of equal relative width, 1/512 of an octave's start, with
no range to be known beforehand: one pass over the data is enough, and counts do not depend on the order
in which batches came. Counting is exact, so equal images give equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_MANTISSA_BITS = 9
_SHIFT = 23 - _MANTISSA_BITS
_BINS_PER_OCTAVE = 1 << _MANTISSA_BITS
_LOWEST_EXPONENT = -30
"""Magnitudes below 2 to this power are counted as zero: they are zero in any eight-bit type whose scale the
larger ones decide, and in FP16."""
_BASE = (_LOWEST_EXPONENT + 127) << _MANTISSA_BITS
_INFINITE = 255 << _MANTISSA_BITS
_SIGN_OFF = np.uint32(0x7FFFFFFF)
_BLOCK = 1 << 20
"""Elements counted at a time: a block of indices fits the processor's cache."""


@dataclass(slots=True)
class Histogram:
    """How often each magnitude was seen in one tensor.

    Attributes:
        counts: int64, one a bin, from bin `_BASE` on; grows with the largest value seen.
        zeros: how many were zero, or too small to matter.
        largest: the largest magnitude, exactly.
        negative: whether a value below zero was seen.
        finite: False once a NaN or an infinity was seen; neither is counted.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    zeros: int = 0
    largest: float = 0.0
    negative: bool = False
    finite: bool = True

    @property
    def silent(self) -> bool:
        """Whether nothing was seen but zeros, and what is as small as one."""
        return self.largest <= 2.0**_LOWEST_EXPONENT

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the values of an array, float32 of any shape."""
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            self._add_block(flat[start : start + _BLOCK])

    def _add_block(self, flat: NDArray[np.float32]) -> None:
        keys = (flat.view(np.uint32) & _SIGN_OFF) >> np.uint32(_SHIFT)
        counts = np.bincount(keys)
        if counts.size > _INFINITE:
            self.finite = False
            counts = counts[:_INFINITE]
        else:
            low, high = float(flat.min()), float(flat.max())
            self.negative = self.negative or low < 0
            self.largest = max(self.largest, -low, high)
        self.zeros += int(counts[:_BASE].sum())
        self._extend(counts[_BASE:])

    def merge(self, other: Histogram) -> None:
        """Add what another histogram counted."""
        self.zeros += other.zeros
        self.largest = max(self.largest, other.largest)
        self.negative = self.negative or other.negative
        self.finite = self.finite and other.finite
        self._extend(other.counts)

    def _extend(self, counts: NDArray[np.int64]) -> None:
        if counts.size > self.counts.size:
            self.counts = np.concatenate([self.counts, np.zeros(counts.size - self.counts.size, np.int64)])
        self.counts[: counts.size] += counts

    def seen(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Magnitudes and how often each was seen, zero first.

        Returns:
            float64 [n] bin centres in rising order, and float64 [n] counts; empty bins are left out, except
            that of zero.
        """
        filled = np.flatnonzero(self.counts)
        centres = (edges(filled) + edges(filled + 1)) / 2
        return np.concatenate([[0.0], centres]), np.concatenate([[self.zeros], self.counts[filled]]).astype(
            np.float64
        )

    @property
    def total(self) -> int:
        """How many values were counted."""
        return self.zeros + int(self.counts.sum())


def edges(bins: NDArray[np.int64]) -> NDArray[np.float64]:
    """Lower edge of each bin of `Histogram.counts`."""
    keys = bins + _BASE
    exponent, mantissa = keys >> _MANTISSA_BITS, keys & (_BINS_PER_OCTAVE - 1)
    values: NDArray[np.float64] = np.ldexp(1.0 + mantissa / _BINS_PER_OCTAVE, exponent - 127)
    return values
