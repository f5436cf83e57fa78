"""Statistics of a latency trace: pure functions over int64 nanoseconds, each with its source.

Nothing here drops, trims or smooths a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int64]

SAMPLES_NEEDED: dict[int, int] = {90: 64, 95: 130, 99: 662}
"""Samples below which a percentile is not shown.

The smallest n at which, with 99 % confidence, at least two samples lie above the true percentile:
p^n + n p^(n-1) (1 - p) <= 0.01 (Wilks, "Determination of sample sizes for setting tolerance limits",
Annals of Mathematical Statistics 12, 1941, of second order). With fewer the percentile is a guess about
a tail that nobody has seen.
"""

RESAMPLES = 1000
SMALLEST_FOR_INTERVAL = 8
"""Samples below which an interval of the median is not given."""

_MOST_BLOCKS = 512
"""Bounds the cost of an interval; longer blocks than needed only widen it."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval of the median, in nanoseconds, both ends included."""

    low: int
    high: int

    def reach(self, median: float) -> float:
        """Distance of the farther end from the median, as a share of it."""
        return max(self.high - median, median - self.low) / median


@dataclass(frozen=True, slots=True)
class Summary:
    """What a report says of a trace; all in nanoseconds. None: too few samples to say it."""

    n: int
    median: float
    ci95: Interval | None
    mean: float
    min: int
    p90: int | None
    p95: int | None
    p99: int | None
    iqr: int


def percentile(samples: Samples, rank: int) -> int:
    """The nearest-rank percentile: the smallest sample that at least `rank` % of all do not exceed.

    It is a duration that really happened, never an interpolation (definition 1 of Hyndman & Fan, "Sample
    quantiles in statistical packages", The American Statistician 50, 1996).

    Raises:
        ValueError: no samples, or `rank` is not in 1..100.
    """
    if not 1 <= rank <= 100 or samples.size == 0:
        raise ValueError(f"percentile {rank} of {samples.size} samples is not defined")
    position = -(-rank * samples.size // 100) - 1
    return int(np.partition(samples, position)[position])


def shown_percentile(samples: Samples, rank: int) -> int | None:
    """The percentile, or None when there are fewer samples than `SAMPLES_NEEDED`."""
    return percentile(samples, rank) if samples.size >= SAMPLES_NEEDED[rank] else None


def block_length(samples: Samples) -> int:
    """Length of a bootstrap block that is long enough for the trace's memory.

    The automatic choice for the circular block bootstrap of Politis & White, "Automatic block-length
    selection for the dependent bootstrap", Econometric Reviews 23, 2004, as corrected by Patton, Politis &
    White, ibid. 28, 2009. It is applied to whether a sample exceeds the median, because the error of a
    median depends on that series and not on how far outliers lie. At least n^(1/3), the rate that is
    right for a short memory (Künsch, Annals of Statistics 17, 1989).
    """
    n = len(samples)
    least = max(round(math.pow(n, 1 / 3)), -(-n // _MOST_BLOCKS))
    above = (samples > np.median(samples)).astype(np.float64)
    above -= above.mean()
    spectrum = np.fft.rfft(above, 1 << (2 * n - 1).bit_length())
    most_lags = min(n - 1, math.ceil(math.sqrt(n)) + 5)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2)[: most_lags + 1] / n
    if covariance[0] <= 0:
        return least
    cut = _last_lag_that_matters(covariance / covariance[0], n)
    window = 2 * cut
    lags = np.arange(1, min(window, most_lags) + 1)
    taper = np.clip(2 * (1 - lags / window), 0, 1) * covariance[lags]
    long_run = float(covariance[0] + 2 * taper.sum())
    if long_run <= 0:
        return least
    bias = 2 * float((lags * taper).sum())
    best = math.pow(2 * bias**2 / (4 / 3 * long_run**2) * n, 1 / 3)
    most = min(math.ceil(3 * math.sqrt(n)), n // 3)
    return max(least, min(math.ceil(best), most))


def _last_lag_that_matters(correlation: NDArray[np.float64], n: int) -> int:
    """The lag after which the next few autocorrelations are all noise (at least 1)."""
    run = max(5, math.ceil(math.sqrt(math.log10(n))))
    loud = np.abs(correlation[1:]) >= 2 * math.sqrt(math.log10(n) / n)
    for lag in range(loud.size):
        if not loud[lag : lag + run].any():
            return max(1, lag)
    return int(loud.size)


def median_interval(
    samples: Samples, *, seed: int = 0, length: int | None = None, resamples: int = RESAMPLES
) -> Interval | None:
    """95 % percentile interval of the median by the circular block bootstrap.

    Blocks keep the trace's memory (Künsch 1989); the circle gives every sample the same weight (Politis &
    Romano, "A circular block-resampling procedure for stationary data", 1992). The same seed gives
    the same interval.

    No resample is ever built. A resample's median is at most t just when at least half of its samples
    are, and how many samples of a block are at most t is a difference of a cumulative sum; so each end of
    the interval is found by bisection over the sorted samples. The result is exactly that of sorting
    every resample and taking its lower median.

    Args:
        samples: int64 [n], in the order they were taken.
        length: samples a block; `block_length` chooses when it is not given.

    Returns:
        None for fewer than `SMALLEST_FOR_INTERVAL` samples.
    """
    n = len(samples)
    if n < SMALLEST_FOR_INTERVAL:
        return None
    length = length or block_length(samples)
    blocks = -(-n // length)
    starts = np.random.default_rng(seed).integers(0, n, (resamples, blocks), dtype=np.int32)
    values = np.unique(samples)

    def share_at_most(value: np.int64) -> float:
        return float(np.mean(_counts_at_most(samples, value, starts, length) * 2 >= blocks * length))

    low = _first(values, lambda value: share_at_most(value) >= 0.025)
    high = _first(values[low:], lambda value: share_at_most(value) >= 0.975) + low
    return Interval(int(values[low]), int(values[high]))


def _counts_at_most(
    samples: Samples, value: np.int64, starts: NDArray[np.int32], length: int
) -> NDArray[np.int64]:
    """How many samples of each resample are at most `value`; int64 [resamples]."""
    hits = samples <= value
    running = np.concatenate([[0], np.cumsum(np.concatenate([hits, hits[: length - 1]]), dtype=np.int32)])
    per_block = (running[length:] - running[:-length]).astype(np.int32)
    counts: NDArray[np.int64] = np.take(per_block, starts).sum(axis=1, dtype=np.int64)
    return counts


def _first(values: Samples, holds: Callable[[np.int64], bool]) -> int:
    """Index of the first of the sorted values for which a monotone condition holds; the last at least."""
    low, high = 0, values.size - 1
    while low < high:
        middle = (low + high) // 2
        if holds(values[middle]):
            high = middle
        else:
            low = middle + 1
    return low


def summarise(samples: Samples, *, seed: int = 0) -> Summary:
    """Everything a report says of a trace.

    Args:
        samples: int64 [n], n at least 1, in the order they were taken.

    Raises:
        ValueError: no samples.
    """
    if samples.size == 0:
        raise ValueError("a trace without samples cannot be summarised")
    return Summary(
        n=samples.size,
        median=float(np.median(samples)),
        ci95=median_interval(samples, seed=seed),
        mean=float(samples.mean()),
        min=int(samples.min()),
        p90=shown_percentile(samples, 90),
        p95=shown_percentile(samples, 95),
        p99=shown_percentile(samples, 99),
        iqr=percentile(samples, 75) - percentile(samples, 25),
    )


@dataclass(frozen=True, slots=True)
class Modes:
    """Two groups that a trace falls into.

    Attributes:
        low, high: median of each group, in nanoseconds.
        share: part of the samples in the upper group.
        separation: part of the variance that the split explains (0..1).
    """

    low: float
    high: float
    share: float
    separation: float


def two_modes(samples: Samples) -> Modes | None:
    """The split of a trace in two that explains most of its variance, each part at least a tenth.

    Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions on Systems, Man, and
    Cybernetics 9, 1979, on the samples between the 2nd and the 98th percentile. A normal distribution
    reaches a separation of about two thirds and a uniform one of three quarters; two modes are well above.

    Returns:
        None when the samples are too few or all alike.
    """
    if samples.size < 20:
        return None
    ordered = np.sort(samples).astype(np.float64)
    core = ordered[samples.size // 50 : samples.size - samples.size // 50]
    n = core.size
    total = n * core.var()
    if total <= 0:
        return None
    left = np.arange(-(-n // 10), n - n // 10)
    sums = np.cumsum(core)
    gap = (sums[-1] - sums[left - 1]) / (n - left) - sums[left - 1] / left
    between = left * (n - left) / n * gap**2
    best = int(np.argmax(between))
    at = int(left[best])
    return Modes(
        low=float(np.median(core[:at])),
        high=float(np.median(core[at:])),
        share=(n - at) / n,
        separation=float(between[best] / total),
    )
