"""Second moments of a layer: all that its squared output error depends on, whatever the number of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over rows, where x is what the quantised network gives a layer and y what the FP32 layer answers.

    Attributes:
        count: rows.
        gram: [groups, k, k], of x xᵀ.
        cross: [groups, outputs, k], of y xᵀ.
        energy: [groups, outputs], of y².
    """

    count: int
    gram: Array
    cross: Array
    energy: Array

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.gram + other.gram,
            self.cross + other.cross,
            self.energy + other.energy,
        )

    def errors(self, weights: Array) -> Array:
        """Squared output error of weights [groups, outputs, k], summed over rows: [groups, outputs]."""
        linear = np.sum(weights * self.cross, axis=2)
        quadratic = np.sum((weights @ self.gram) * weights, axis=2)
        squared: Array = np.maximum(self.energy - 2 * linear + quadratic, 0.0)
        return squared

    def relative_error(self, weights: Array) -> float:
        """L2 distance of the outputs over their L2 norm."""
        return float(np.sqrt(self.errors(weights).sum() / max(self.energy.sum(), np.finfo(np.float64).tiny)))


def moments_of(quantised: Matrix, exact: Matrix, weights: Matrix) -> Moments:
    """Of rows [groups, n, k] in both networks, and the FP32 weights [groups, outputs, k]."""
    answers = exact @ weights.swapaxes(1, 2)
    turned = quantised.swapaxes(1, 2)
    return Moments(
        quantised.shape[1],
        (turned @ quantised).astype(np.float64),
        (answers.swapaxes(1, 2) @ quantised).astype(np.float64),
        np.sum(answers.astype(np.float64) ** 2, axis=1),
    )
