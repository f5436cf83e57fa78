"""A layer as a matrix product: which rows of its input make which outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import NodeProto, helper

from bbx.calibration.refine.moments import Matrix
from bbx.calibration.to_qdq import EIGHT_BIT_TYPES, EightBit, rounded


@dataclass(frozen=True, slots=True)
class Window:
    """How a convolution slides over its input; one number an axis of the map.

    Attributes:
        pads: before and after.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """How far the kernel extends along each axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def over(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """A view [batch, channels, *positions, *kernel] of a map that is padded with zeros."""
        padded = np.pad(values, ((0, 0), (0, 0), *self.pads))
        rank = len(self.kernel)
        windows = sliding_window_view(padded, self.reach, axis=tuple(range(2, 2 + rank)))
        steps = tuple(slice(None, None, stride) for stride in self.strides)
        taps = tuple(slice(None, None, dilation) for dilation in self.dilations)
        return windows[(slice(None), slice(None), *steps, *taps)]


@dataclass(frozen=True, slots=True)
class Product:
    """A weight as `groups` matrices [outputs, inputs], each of which multiplies its own share of a row.

    Attributes:
        shape: of the weight.
        transposed: whether outputs are the weight's last axis.
        window: None for a matrix product.
    """

    shape: tuple[int, ...]
    groups: int
    transposed: bool
    window: Window | None

    @property
    def inputs(self) -> int:
        """How many inputs each output has."""
        return self.shape[0] if self.transposed else math.prod(self.shape[1:])

    def matrices(self, weight: NDArray[np.generic]) -> NDArray[np.generic]:
        """[groups, outputs of a group, inputs of a group] from the weight's own shape."""
        matrix = weight.T if self.transposed else weight.reshape(weight.shape[0], -1)
        return matrix.reshape(self.groups, -1, matrix.shape[1])

    def weight(self, matrices: NDArray[np.generic]) -> NDArray[np.generic]:
        """The inverse of `matrices`."""
        matrix = matrices.reshape(-1, matrices.shape[2])
        return np.ascontiguousarray(matrix.T) if self.transposed else matrix.reshape(self.shape)

    def rows(self, values: NDArray[np.float32], share: NDArray[np.intp] | None) -> Matrix:
        """[groups, rows, inputs of a group] of a layer's input.

        Args:
            share: [batch, n] positions of the output map to take from each image; None takes all.
        """
        if self.window is None:
            flat = values.reshape(len(values), -1, values.shape[-1])
            if share is not None:
                flat = np.take_along_axis(flat, share[:, :, None], axis=1)
            return flat.reshape(1, -1, values.shape[-1])
        windows = self.window.over(values)
        rank = len(self.window.kernel)
        places = windows.shape[2 : 2 + rank]
        if share is None:
            share = np.broadcast_to(np.arange(math.prod(places)), (len(values), math.prod(places)))
        images = np.repeat(np.arange(len(values)), share.shape[1])
        at = np.unravel_index(share.reshape(-1), places)
        picked: tuple[Any, ...] = (images, slice(None), *at)
        taken = windows[picked]
        grouped = taken.reshape(len(taken), self.groups, -1)
        return np.ascontiguousarray(grouped.swapaxes(0, 1), dtype=np.float32)

    def positions(self, shape: tuple[int, ...]) -> int:
        """Outputs of one image in a layer whose input has this shape."""
        if self.window is None:
            return math.prod(shape[1:-1])
        zipped = zip(shape[2:], self.window.reach, self.window.strides, self.window.pads, strict=True)
        return math.prod((size + sum(pad) - reach) // stride + 1 for size, reach, stride, pad in zipped)


def product_of(node: NodeProto, shape: tuple[int, ...], spatial: tuple[int | None, ...]) -> Product | None:
    """How a layer's weight multiplies; None for a layer that is not such a product of its first input.

    Args:
        shape: of the weight.
        spatial: sizes of the input map, for padding that depends on them; None where unknown.
    """
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        window = _window(attributes, shape[2:], spatial)
        return Product(shape, attributes.get("group", 1), False, window) if window else None
    if node.op_type == "Gemm":
        plain = not attributes.get("transA") and attributes.get("alpha", 1.0) == 1.0
        return Product(shape, 1, not attributes.get("transB"), None) if plain else None
    if node.op_type == "MatMul" and len(shape) == 2:
        return Product(shape, 1, True, None)
    return None


def _window(
    attributes: Mapping[str, Any], kernel: tuple[int, ...], spatial: tuple[int | None, ...]
) -> Window | None:
    rank = len(kernel)
    strides: tuple[int, ...] = tuple(attributes.get("strides", [1] * rank))
    dilations: tuple[int, ...] = tuple(attributes.get("dilations", [1] * rank))
    automatic = attributes.get("auto_pad", b"NOTSET")
    if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
        sizes = [size for size in spatial if size is not None]
        if len(sizes) < rank:
            return None
        pads = tuple(
            _same(size, (k - 1) * d + 1, s, upper=automatic == b"SAME_UPPER")
            for size, k, d, s in zip(sizes, kernel, dilations, strides, strict=True)
        )
    else:
        given = attributes.get("pads", [0] * (2 * rank))
        pads = tuple(zip(given[:rank], given[rank:], strict=True))
    return Window(kernel, strides, dilations, pads)


def _same(size: int, reach: int, stride: int, *, upper: bool) -> tuple[int, int]:
    total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
    less, more = total // 2, total - total // 2
    return (less, more) if upper else (more, less)


def stored(values: Matrix, scale: float, kind: EightBit) -> Matrix:
    """Activations as QuantizeLinear and DequantizeLinear give them back."""
    factor = np.float32(scale)
    if kind == "int8":
        found: Matrix = np.clip(np.rint(values / factor), -128, 127) * factor
        return found
    return rounded(values / factor, EIGHT_BIT_TYPES[kind]).astype(np.float32) * factor
