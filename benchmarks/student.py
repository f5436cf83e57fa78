"""Student's t distribution: what is known of a mean from a few values (Biometrika 6, 1908)."""

from __future__ import annotations

import math

import numpy as np

_STEPS = 4_000


def two_sided(t: float, freedom: float) -> float:
    """How likely a value at least this far from nought is, on either side.

    Args:
        t: the value.
        freedom: degrees of freedom, at least 1; need not be whole.
    """
    # With x = √n tan θ, n degrees of freedom, the density becomes cos^(n-1) θ on a finite range.
    angle = math.atan(abs(t) / math.sqrt(freedom))
    return _area(angle, freedom) / _area(0.0, freedom)


def _area(start: float, freedom: float) -> float:
    """The integral of cos^(n-1) from an angle to a right one, by the midpoint rule."""
    width = (math.pi / 2 - start) / _STEPS
    angles = start + width * (np.arange(_STEPS) + 0.5)
    return float((np.cos(angles) ** (freedom - 1)).sum() * width)


def quantile(confidence: float, freedom: float) -> float:
    """How far from nought a value is with this probability at most, on either side."""
    low, high = 0.0, 1.0
    while two_sided(high, freedom) > 1 - confidence:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, freedom) > 1 - confidence else (low, middle)
    return high
