"""How fast a network can be at most on a machine with two roofs (Williams, Waterman and Patterson, 2009).

A machine computes `flops` operations and moves `bandwidth` bytes a second. Work of so many operations on so
many bytes takes at least the longer of the two times; which one it is depends on whether its arithmetic
intensity (operations a byte) is above that of the ridge, `flops / bandwidth`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Bound = Literal["compute", "memory"]


@dataclass(frozen=True, slots=True)
class Roofs:
    """A machine's peaks: operations and bytes a second."""

    flops: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """Operations a byte at which both roofs are reached at once."""
        return self.flops / self.bandwidth

    def seconds(self, flops: int, nbytes: int) -> float:
        """The least time for so many operations on so many bytes."""
        return max(flops / self.flops, nbytes / self.bandwidth)

    def bound(self, flops: int, nbytes: int) -> Bound:
        """What that time is bound by."""
        return "compute" if flops / self.flops >= nbytes / self.bandwidth else "memory"

    def attainable(self, intensity: float) -> float:
        """Operations a second at this arithmetic intensity."""
        return min(self.flops, intensity * self.bandwidth)
