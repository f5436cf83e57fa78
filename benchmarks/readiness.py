"""Whether a run is over when it says so.

A runner that returns before its work is done leaves the rest to whoever reads the answer. So reading an
answer right after a run must not take longer than reading it once more.
"""

from __future__ import annotations

from collections.abc import Callable

from bbx.runners.base import Bound

_PROBES = 3
_LONG_NS = 100_000_000
"""A run that takes longer than this is looked at once."""


def undone_ns(bound: Bound, median_ns: float, *, now: Callable[[], int]) -> int:
    """Nanoseconds that the first reading of an answer takes beyond the second, the least of a few probes.

    The least, because whatever else the machine does makes single probes longer, and work that a run leaves
    undone makes all of them longer.

    Args:
        median_ns: of one run.
        now: the runner's clock.
    """
    return min(_probe(bound, now) for _ in range(1 if median_ns > _LONG_NS else _PROBES))


def _probe(bound: Bound, now: Callable[[], int]) -> int:
    bound.step()
    ticks = [now()]
    for _ in range(2):
        bound.outputs()
        ticks.append(now())
    return (ticks[1] - ticks[0]) - (ticks[2] - ticks[1])
