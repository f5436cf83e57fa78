"""Faster, slower, same, or not known: pure functions over log-ratios of time, head over base.

The question is never whether two medians differ (they always do), but whether they differ by more than a
declared minimum effect. A verdict other than `ambiguous` needs the whole interval on one side of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bbx.benchmarks.stats import Samples, block_length, median_interval
from bbx.benchmarks.student import quantile, two_sided

Change = Literal["faster", "slower", "same", "ambiguous"]

CONFIDENCE = 0.95

ALARM = 0.005
"""Largest p of a change. An interval of 95 % alone would call one comparison in twenty different, of equal
work on a machine whose noise is larger than the effect."""

_NORMAL_95 = 1.959963984540054
_RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of a ratio of two times.

    Attributes:
        ratio: head's time over base's.
        low, high: its 95 % interval.
        p: how likely an interval this far from the minimum effect would be if there were no such effect, two
            sided; 1 where the median does not reach it.
        change: the verdict.
        reason: why it is `ambiguous`; empty otherwise.
    """

    ratio: float
    low: float
    high: float
    p: float
    change: Change
    reason: str = ""

    def doubted(self, reason: str) -> Finding:
        """The same numbers, which prove nothing for a reason."""
        return replace(self, change="ambiguous", reason=reason)


def paired(log_ratios: Sequence[float], *, effect: float, seed: int = 0) -> Finding:
    """Judge the log-ratios of pairs that were measured next to each other.

    The interval is the percentile bootstrap's of the median (Efron, "Bootstrap methods: another look at the
    jackknife", Annals of Statistics 7, 1979), from a fixed seed. `p` is the signed-rank test's (Wilcoxon,
    "Individual comparisons by ranking methods", Biometrics Bulletin 1, 1945), which suits pairs in ABBA
    order: of equal work, a ratio and its inverse are equally likely.

    Args:
        log_ratios: natural logarithms, one a pair.
        effect: smallest change that matters, as a share: 0.02 for 2 %.

    Raises:
        ValueError: no pairs.
    """
    values = np.asarray(log_ratios, dtype=np.float64)
    if values.size == 0:
        raise ValueError("no pair was measured")
    chosen = np.random.default_rng(seed).integers(0, values.size, (_RESAMPLES, values.size))
    medians = np.median(values[chosen], axis=1)
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    edge = math.log1p(effect)
    p = min(_signed_rank(values - edge), _signed_rank(-values - edge))
    return _finding(float(np.median(values)), float(low), float(high), p, edge)


def unpaired(base: Samples, head: Samples, *, effect: float, seed: int = 0) -> Finding | None:
    """Judge two traces that were taken at different times.

    The standard error of each log-median is read off its block-bootstrap interval and both are added as
    independent errors. What happened to the machine between the two runs is in neither.

    Returns:
        None where a trace has too few samples for an interval.
    """
    spreads = [_log_error(trace, seed) for trace in (base, head)]
    if spreads[0] is None or spreads[1] is None:
        return None
    centre = math.log(float(np.median(head)) / float(np.median(base)))
    error = math.hypot(spreads[0], spreads[1])
    edge = math.log1p(effect)
    reach = _NORMAL_95 * error
    beyond = max(abs(centre) - edge, 0.0)
    p: float = math.erfc(beyond / error / math.sqrt(2)) if error > 0 else float(beyond == 0)
    return _finding(centre, centre - reach, centre + reach, p, edge)


def between_processes(base: Sequence[float], head: Sequence[float], *, effect: float) -> Finding | None:
    """Judge two sets of processes by the median of each, so that what differs between processes is known.

    The interval is Student's for the difference of two mean logarithms whose variances may differ (Welch,
    "The generalization of 'Student's' problem when several different population variances are involved",
    Biometrika 34, 1947).

    Returns:
        None where either has fewer than two processes.
    """
    if min(len(base), len(head)) < 2:
        return None
    first, second = np.log(base), np.log(head)
    centre = float(second.mean() - first.mean())
    errors = [float(each.var(ddof=1)) / each.size for each in (first, second)]
    error = math.sqrt(sum(errors))
    edge = math.log1p(effect)
    beyond = max(abs(centre) - edge, 0.0)
    if error == 0:
        return _finding(centre, centre, centre, float(beyond == 0), edge)
    freedom = sum(errors) ** 2 / sum(
        e**2 / (each.size - 1) for e, each in zip(errors, (first, second), strict=True)
    )
    reach = quantile(CONFIDENCE, freedom) * error
    return _finding(centre, centre - reach, centre + reach, two_sided(beyond / error, freedom), edge)


def _log_error(samples: Samples, seed: int) -> float | None:
    interval = median_interval(samples, seed=seed, length=block_length(samples)) if samples.size > 7 else None
    if interval is None or interval.low <= 0:
        return None
    return math.log(interval.high / interval.low) / (2 * _NORMAL_95)


def _signed_rank(values: NDArray[np.float64]) -> float:
    """p of values so far above nought, by the normal approximation, times two for both sides."""
    _, place, counts = np.unique(np.abs(values), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    n = values.size
    deviation = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    z = (float(ranks[values > 0].sum()) - n * (n + 1) / 4) / deviation
    return min(1.0, math.erfc(z / math.sqrt(2)))


def _finding(centre: float, low: float, high: float, p: float, edge: float) -> Finding:
    change: Change = "ambiguous"
    reason = f"The interval of the ratio reaches across the minimum effect of {math.expm1(edge):.1%}."
    if low > edge or high < -edge:
        if p <= ALARM:
            change, reason = ("slower" if low > edge else "faster"), ""
        else:
            reason = f"The interval lies beyond the minimum effect, but p is {p:.3f}: that may be chance."
    elif -edge <= low and high <= edge:
        change, reason = "same", ""
    return Finding(math.exp(centre), math.exp(low), math.exp(high), p, change, reason)


def corrected(findings: Sequence[Finding]) -> list[Finding]:
    """The findings of one comparison of many rows; a change that chance explains becomes `ambiguous`.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6,
    1979: the smallest of m p-values must be at most 0.05/m, the next 0.05/(m-1), and so on; after the first
    that is not, none counts.
    """
    result = list(findings)
    order = sorted(range(len(result)), key=lambda index: result[index].p)
    holds = True
    for rank, index in enumerate(order):
        found = result[index]
        holds = holds and found.p <= (1 - CONFIDENCE) / (len(order) - rank)
        if not holds and found.change in ("faster", "slower"):
            result[index] = found.doubted(
                f"One of {len(order)} rows looks {found.change} like this by chance (Holm's correction)."
            )
    return result


def fired(control: Finding) -> bool:
    """Whether a comparison of something with itself found a change."""
    return control.change in ("faster", "slower")
