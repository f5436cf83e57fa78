"""What a layer's outputs are like, channel by channel: how many were seen, their mean, their spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bbx.calibration.refine.moments import Array, Matrix


@dataclass(frozen=True, slots=True)
class Answers:
    """Sums over rows of a layer's outputs.

    Attributes:
        count: rows.
        total: [groups, outputs].
        squares: [groups, outputs].
    """

    count: int
    total: Array
    squares: Array

    def __add__(self, other: Answers) -> Answers:
        return Answers(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> Array:
        """[groups, outputs]."""
        return self.total / self.count

    @property
    def deviation(self) -> Array:
        """Standard deviation [groups, outputs]."""
        found: Array = np.sqrt(np.maximum(self.squares / self.count - self.mean**2, 0.0))
        return found


def answers_of(rows: Matrix, weights: Matrix) -> Answers:
    """Of rows [groups, n, k] and weights [groups, outputs, k]."""
    outputs = (rows @ weights.swapaxes(1, 2)).astype(np.float64)
    return Answers(rows.shape[1], outputs.sum(axis=1), (outputs**2).sum(axis=1))


def distance(mean: Array, deviation: Array, wanted: Answers) -> float:
    """How far means and deviations are from those that are wanted, relative to these.

    It is the 2-Wasserstein distance of normal distributions with these moments, all channels together.
    """
    apart = np.sum((mean - wanted.mean) ** 2) + np.sum((deviation - wanted.deviation) ** 2)
    size = np.sum(wanted.mean**2) + np.sum(wanted.deviation**2)
    return float(np.sqrt(apart / max(size, np.finfo(np.float64).tiny)))
