"""From a histogram of magnitudes to the threshold at which an eight-bit type saturates.

Four methods. None wins everywhere (Wu et al. 2020, "Integer Quantization for Deep Learning Inference",
table 5 and section 6), so `bbx.calibration.choose` tries them on images held out of the collection.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bbx.calibration.histograms import Histogram, edges
from bbx.calibration.methods import percentile_of, require_method
from bbx.calibration.to_qdq import EIGHT_BIT_TYPES, EightBit

Method = str
"""`max`, `percentile:P` with P in (50, 100], `entropy` or `mse`."""

CANDIDATES: tuple[Method, ...] = ("mse", "max", "percentile:99.99", "percentile:99.999", "entropy")
"""What `auto` chooses from; the first is where it starts."""

_LEVELS = 128
_ENTROPY_BINS = 2048
_ENTROPY_STEPS = 128
_SMOOTHING = 1e-4
"""Counts that an empty bin has at least where values beyond the candidate fall into it, as in ONNX Runtime:
an outlier alone would otherwise forbid every threshold below it."""
_MSE_STEPS = 96
_MSE_LOWEST = 0.05
_SMALLEST = 2.0**-30


def threshold(histogram: Histogram, method: Method, kind: EightBit = "int8") -> float:
    """The magnitude at which a tensor saturates.

    Args:
        method: see `Method`.

    Returns:
        A positive number, at most the largest magnitude seen; tiny where nothing but zeros was seen.

    Raises:
        UsageError: there is no such method.
    """
    choose = method_named(method)
    if histogram.silent:
        return _SMALLEST
    return float(min(max(choose(histogram, kind), _SMALLEST), histogram.largest))


def scale_of(limit: float, kind: EightBit) -> float:
    """The scale with which a magnitude `limit` becomes the type's largest value."""
    return float(np.float32(limit / EIGHT_BIT_TYPES[kind].largest))


def method_named(method: Method) -> Callable[[Histogram, EightBit], float]:
    """The function of a method.

    Raises:
        UsageError: there is no such method.
    """
    percent = percentile_of(method)
    if percent is not None:
        return lambda histogram, kind: _percentile(histogram, percent / 100)
    known = {"max": _largest, "percentile": _default_percentile, "entropy": _entropy, "mse": _mse}
    require_method(method)
    return known[method]


def _largest(histogram: Histogram, kind: EightBit) -> float:
    return histogram.largest


def _default_percentile(histogram: Histogram, kind: EightBit) -> float:
    return _percentile(histogram, 0.9999)


def _percentile(histogram: Histogram, share: float) -> float:
    magnitudes, counts = histogram.seen()
    reached = np.searchsorted(np.cumsum(counts), share * counts.sum())
    return float(magnitudes[min(int(reached), magnitudes.size - 1)])


def _mse(histogram: Histogram, kind: EightBit) -> float:
    """The threshold with the least mean squared error of quantised values, among even shares of the largest.

    Source: Choukroun et al. 2019, "Low-bit Quantization of Neural Networks for Efficient Inference".
    """
    magnitudes, counts = histogram.seen()
    limits = histogram.largest * np.linspace(_MSE_LOWEST, 1.0, _MSE_STEPS)
    errors = [np.sum(counts * (_stored(magnitudes, limit, kind) - magnitudes) ** 2) for limit in limits]
    return float(limits[int(np.argmin(errors))])


def _stored(magnitudes: NDArray[np.float64], limit: float, kind: EightBit) -> NDArray[np.float64]:
    """Magnitudes as the type stores them."""
    eight = EIGHT_BIT_TYPES[kind]
    scaled = np.minimum(magnitudes * (eight.largest / limit), eight.largest)
    exact = np.rint(scaled) if kind == "int8" else scaled.astype(eight.dtype).astype(np.float64)
    return exact * (limit / eight.largest)


def _entropy(histogram: Histogram, kind: EightBit) -> float:
    """The threshold whose quantised distribution has the least Kullback-Leibler divergence.

    Source: Migacz 2017, "8-bit Inference with TensorRT" (GTC 2017, slides 27 to 38): a histogram of 2,048
    even bins, a candidate at every 15th of them from the 128th on, and everything beyond a candidate
    counted in its last bin. The bin of zero is left out, as ReLU would make it outweigh all others.
    """
    counts = _evenly(histogram)
    candidates = np.arange(_LEVELS, _ENTROPY_BINS + 1, (_ENTROPY_BINS - _LEVELS) // _ENTROPY_STEPS)
    divergences = [_divergence(counts, int(bins)) for bins in candidates]
    best = int(candidates[int(np.argmin(divergences))])
    return histogram.largest * best / _ENTROPY_BINS


def _evenly(histogram: Histogram) -> NDArray[np.float64]:
    """The counts in even bins from 0 to the largest magnitude, without the zeros.

    The histogram's bins are wider than these near its end, so each is spread over those that it covers.
    """
    below = np.minimum(edges(np.arange(histogram.counts.size + 1)), histogram.largest)
    cumulative = np.concatenate([[0], np.cumsum(histogram.counts)])
    even = np.linspace(0.0, histogram.largest, _ENTROPY_BINS + 1)
    return np.diff(np.interp(even, below, cumulative, left=0.0))


def _divergence(counts: NDArray[np.float64], bins: int) -> float:
    reference = counts[:bins].copy()
    reference[-1] += counts[bins:].sum()
    # Each of the 128 levels spreads what it holds evenly over those of its bins that were not empty.
    level = np.arange(bins) * _LEVELS // bins
    inside = counts[:bins]
    filled = inside > 0
    mass = np.bincount(level, weights=inside, minlength=_LEVELS)
    occupied = np.bincount(level, weights=filled, minlength=_LEVELS)
    spread = np.where(filled, mass[level] / np.maximum(occupied[level], 1), 0.0)
    present = reference > 0
    spread = np.where(present, np.maximum(spread, _SMOOTHING), spread)
    p, q = reference / reference.sum(), spread / spread.sum()
    return float(np.sum(p[present] * np.log(p[present] / q[present])))
