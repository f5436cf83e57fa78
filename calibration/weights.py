"""Weights in eight bits: one scale an output channel, and how far each may saturate."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bbx.calibration.to_qdq import EIGHT_BIT_TYPES, EightBit, EightBitType, QuantisedWeight, rounded
from bbx.exporter.onnx_graph import along_axis

WeightMethod = Literal["max", "mse", "unbiased"]

_STEPS = 21
_LOWEST = 0.6
_LEAST_SCALE = 2.0**-60
"""Of a channel whose weights are all zero, and of any other: FP32 holds its reciprocal too."""

_MOST_BIAS = 0.25
"""Share by which a scale may be changed; a channel that would need more was hardly stored at all."""


def quantised_weight(
    values: NDArray[np.float32], axis: int | None, kind: EightBit, method: WeightMethod = "max"
) -> QuantisedWeight:
    """Round a weight to the nearest eight-bit values.

    Args:
        values: float32, any shape; finite.
        axis: of the output channels, or None for one scale.
        method: `max` lets no weight saturate; `mse` takes, for each channel, the threshold with the least
            mean squared error among shares of the largest weight; `unbiased` makes up for what that takes
            from the channel, see `unbiased`.
    """
    scale = weight_scale(values, axis, kind, "max" if method == "max" else "mse")
    found = with_scale(values, scale, axis, kind)
    return unbiased(found, values) if method == "unbiased" else found


def unbiased(weight: QuantisedWeight, values: NDArray[np.float32]) -> QuantisedWeight:
    """The same stored values, with scales at which no channel is smaller or larger than it was.

    What has the least squared error is too small: its error is at right angles to what is stored, not to what
    was wanted. A network passes that on from layer to layer. So the scale of each channel w, stored as q, is
    w·w / w·q; where that would be far from the scale it has (hardly anything of the channel was stored), it
    stays.

    Source: the scale is that of Vargaftik et al. 2022, "EDEN: Communication-Efficient and Robust Distributed
    Mean Estimation"; Banner et al. 2019, "Post training 4-bit quantization of convolutional networks for
    rapid-deployment", take the ratio of the norms.

    Args:
        values: float32, what `weight` was rounded from.
    """
    exact = _rows(values, weight.axis).astype(np.float64)
    stored = _rows(weight.values.astype(np.float32), weight.axis).astype(np.float64)
    had = weight.scale.astype(np.float64).reshape(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = (exact**2).sum(axis=1) / (exact * stored).sum(axis=1) / had
    scale = np.where(np.abs(factor - 1) <= _MOST_BIAS, factor, 1.0) * had  # a NaN is not close either
    return replace(weight, scale=scale.astype(np.float32).reshape(weight.scale.shape))


def with_scale(
    values: NDArray[np.float32], scale: NDArray[np.float32], axis: int | None, kind: EightBit
) -> QuantisedWeight:
    """Round a weight to the nearest values that these scales give."""
    scaled = values.astype(np.float64) / along_axis(scale, axis, values.ndim)
    return QuantisedWeight(rounded(scaled, EIGHT_BIT_TYPES[kind]), scale, axis)


def weight_scale(
    values: NDArray[np.float32], axis: int | None, kind: EightBit, method: Literal["max", "mse"] = "max"
) -> NDArray[np.float32]:
    """The scale of each output channel with which it is rounded; see `quantised_weight`.

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
