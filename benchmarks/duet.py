"""Two variants in turns: both alive in one process, so that whatever disturbs one disturbs the other.

After Bulej et al., "Duet benchmarking: improving measurement accuracy in the cloud", ICPE 2020, in turns
instead of at once, because a network takes all cores. The order ABBA cancels a drift that is linear in time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bbx.benchmarks.decide import Finding, paired
from bbx.benchmarks.measure import Profile, warm_up
from bbx.runners.base import Bound

PAIRS = 30
BLOCK_S = 0.02
"""A block is long enough for the clock and the scheduler not to matter."""

_ROBUST_RUNS = 5
_ROBUST_S = 0.1
"""Within this, a block has as many runs as it takes for their median not to follow a single one."""

WARM_UP = Profile("compare", at_least_s=0, cap_s=0, warm_up_cap_s=1.0, percentile=None, target={})

Now = Callable[[], int]


@dataclass(slots=True)
class Ratios:
    """Log-ratios of one variant over base, one a pair.

    Attributes:
        medians: of the blocks' median runs, which a disturbed run does not move.
        means: of their mean runs, in which what is slow now and then counts.
    """

    medians: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)

    def finding(self, *, effect: float) -> Finding:
        """The verdict of the medians, unless the means contradict it.

        Measured with a load of nine on two CPUs, medians called none of 83 comparisons of a loop of 1 ms with
        itself slower, and all of 83 that were made 5 % slower; means called one, and 29.
        """
        typical, mean = (paired(each, effect=effect) for each in (self.medians, self.means))
        if typical.change == "same" and mean.change in ("faster", "slower"):
            return typical.doubted(
                f"Typical runs take the same time, and the mean run is {mean.change} ({mean.ratio:.3f}): "
                "some runs are different."
            )
        return typical


@dataclass(frozen=True, slots=True)
class Duet:
    """What was measured.

    Attributes:
        head: head over base.
        control: a second instance of base over base.
        base_ns: median nanoseconds of a run of base, in its blocks.
        runs: runs in a block of base.
    """

    head: Ratios
    control: Ratios
    base_ns: float
    runs: int


def duet(
    base: Bound,
    twin: Bound,
    head: Bound,
    *,
    pairs: int = PAIRS,
    now: Now = time.perf_counter_ns,
    after_pair: Callable[[int], None] = lambda _: None,
) -> Duet:
    """Measure `head` against `base`, and for a control `twin`, which is base once more, against it.

    Args:
        pairs: of each comparison; those of the two take turns.
        now: host clock in nanoseconds.
        after_pair: told how many pairs are done.
    """
    counts = {id(bound): _block_runs(bound, now) for bound in (base, twin, head)}
    found = Duet(Ratios(), Ratios(), 0.0, counts[id(base)])
    seen: list[float] = []
    for index in range(pairs):
        for other, ratios in ((head, found.head), (twin, found.control)):
            order = (base, other) if index % 2 == 0 else (other, base)
            turns = [order[turn] for turn in (0, 1, 1, 0)]
            blocks = [(bound is base, bound.sample(counts[id(bound)])) for bound in turns]
            for values, statistic in ((ratios.medians, np.median), (ratios.means, np.mean)):
                values.append(_log_ratio([(is_base, float(statistic(block))) for is_base, block in blocks]))
            seen += [float(np.median(block)) for is_base, block in blocks if is_base]
        after_pair(index + 1)
    return replace(found, base_ns=float(np.median(seen)))


def _log_ratio(blocks: Sequence[tuple[bool, float]]) -> float:
    """Of the time of the blocks that are not base's over that of those that are."""
    base = sum(value for is_base, value in blocks if is_base)
    return math.log(sum(value for is_base, value in blocks if not is_base) / base)


def _block_runs(bound: Bound, now: Now) -> int:
    """Warm up, and say how many runs make a block."""
    run_s = warm_up(bound, WARM_UP, now=now) / 1e9
    return max(1, math.ceil(BLOCK_S / run_s), min(_ROBUST_RUNS, int(_ROBUST_S / run_s)))
