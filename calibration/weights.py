"""Weights in eight bits: one scale an output channel, and how far each may saturate."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bbx.calibration.to_qdq import EIGHT_BIT_TYPES, EightBit, EightBitType, QuantisedWeight, along, rounded

WeightMethod = Literal["max", "mse"]

_STEPS = 21
_LOWEST = 0.6
_LEAST_SCALE = 2.0**-60
"""Of a channel whose weights are all zero, and of any other: FP32 holds its reciprocal too."""


def quantised_weight(
    values: NDArray[np.float32], axis: int | None, kind: EightBit, method: WeightMethod = "max"
) -> QuantisedWeight:
    """Round a weight to the nearest eight-bit values.

    Args:
        values: float32, any shape; finite.
        axis: of the output channels, or None for one scale.
        method: `max` lets no weight saturate; `mse` takes, for each channel, the threshold with the least
            mean squared error among shares of the largest weight.
    """
    scale = weight_scale(values, axis, kind, method)
    return with_scale(values, scale, axis, kind)


def with_scale(
    values: NDArray[np.float32], scale: NDArray[np.float32], axis: int | None, kind: EightBit
) -> QuantisedWeight:
    """Round a weight to the nearest values that these scales give."""
    scaled = values.astype(np.float64) / along(scale, axis, values.ndim)
    return QuantisedWeight(rounded(scaled, EIGHT_BIT_TYPES[kind]), scale, axis)


def weight_scale(
    values: NDArray[np.float32], axis: int | None, kind: EightBit, method: WeightMethod = "max"
) -> NDArray[np.float32]:
    """The scale of each output channel; see `quantised_weight`.

    Returns:
        float32, [channels], or [] where `axis` is None; positive.
    """
    eight = EIGHT_BIT_TYPES[kind]
    rows = _rows(values, axis).astype(np.float64)
    largest = np.abs(rows).max(axis=1, initial=0.0)
    limit = largest if method == "max" else largest * _best_shares(rows, largest, eight)
    scale: NDArray[np.float32] = np.maximum(limit / eight.largest, _LEAST_SCALE).astype(np.float32)
    return scale.reshape(()) if axis is None else scale


def _rows(values: NDArray[np.float32], axis: int | None) -> NDArray[np.float32]:
    if axis is None:
        return values.reshape(1, -1)
    rows: NDArray[np.float32] = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    return rows


def _best_shares(
    rows: NDArray[np.float64], largest: NDArray[np.float64], kind: EightBitType
) -> NDArray[np.float64]:
    best = np.ones_like(largest)
    least = np.full_like(largest, np.inf)
    for share in np.linspace(1.0, _LOWEST, _STEPS):
        scale = np.maximum(largest * share / kind.largest, _LEAST_SCALE)[:, None]
        error = ((rounded(rows / scale, kind).astype(np.float64) * scale - rows) ** 2).sum(axis=1)
        better = error < least
        best[better], least[better] = share, error[better]
    return best
