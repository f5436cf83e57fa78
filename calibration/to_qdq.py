"""From an FP32 graph, a placement and scales to a graph with explicit Q/DQ nodes.

Symmetric throughout: every zero point is zero. A weight is stored in eight bits with one DequantizeLinear
after it, so the file is about a quarter of the FP32 one; an activation gets one pair of QuantizeLinear and
DequantizeLinear, which all of its quantised readers share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bbx.calibration.placement import Placement
from bbx.errors import ExportError
from bbx.exporter import onnx_graph
from bbx.exporter.onnx_graph import all_names, along_axis, unique_name

EightBit = Literal["int8", "fp8"]


@dataclass(frozen=True, slots=True)
class EightBitType:
    """An eight-bit type: its ONNX element type, NumPy type, largest value, and the least opset with it."""

    name: EightBit
    elem_type: int
    dtype: np.dtype[np.generic]
    largest: float
    least_opset: int


EIGHT_BIT_TYPES: dict[EightBit, EightBitType] = {
    # Per-channel scales exist from opset 13 on, E4M3 from 19 on.
    "int8": EightBitType("int8", int(TensorProto.INT8), np.dtype(np.int8), 127.0, 13),
    "fp8": EightBitType("fp8", int(TensorProto.FLOAT8E4M3FN), np.dtype(ml_dtypes.float8_e4m3fn), 448.0, 19),
}


@dataclass(frozen=True, slots=True)
class QuantisedWeight:
    """A weight in eight bits: `values * scale` along `axis` is what the layer computes with.

    Attributes:
        values: of the eight-bit type, in the weight's shape.
        scale: float32, [channels], or [] where `axis` is None.
    """

    values: NDArray[np.generic]
    scale: NDArray[np.float32]
    axis: int | None

    def restored(self) -> NDArray[np.float32]:
        """What the layer computes with, float32."""
        return self.values.astype(np.float32) * along_axis(self.scale, self.axis, self.values.ndim)


def rounded(values: NDArray[np.floating], kind: EightBitType) -> NDArray[np.generic]:
    """Scaled values as the eight-bit type: nearest, ties to even, saturating."""
    clipped = np.clip(values, -kind.largest, kind.largest)
    stored: NDArray[np.generic] = (np.rint(clipped) if kind.name == "int8" else clipped).astype(kind.dtype)
    return stored


def qdq_from_onnx(
    model: ModelProto,
    placement: Placement,
    scales: Mapping[str, float],
    weights: Mapping[str, QuantisedWeight],
    kind: EightBit,
) -> ModelProto:
    """Put Q/DQ nodes into a graph.

    Args:
        model: prepared, at the opset of `EIGHT_BIT_TYPES[kind]` at least; it is not changed.
        placement: of this very graph.
        scales: of each tensor of `placement.activations`; positive.
        weights: of each layer's weight, by the initialiser's name.

    Returns:
        A graph whose quantised weights are stored in eight bits; it passes the checker.

    Raises:
        ExportError: a scale or weight is missing, a scale is not positive, or the result is not valid.
    """
    _check(placement, scales, weights)
    result = ModelProto()
    result.CopyFrom(model)
    _Rewriter(result, placement, scales, weights, EIGHT_BIT_TYPES[kind]).rewrite()
    result.producer_name, result.producer_version = "bbx", ""
    onnx_graph.infer_and_check(result)
    return result


def _check(placement: Placement, scales: Mapping[str, float], weights: Mapping[str, QuantisedWeight]) -> None:
    missing = [name for name in placement.activations if name not in scales]
    missing += [layer.weight for layer in placement.layers if layer.weight not in weights]
    if missing:
        raise ExportError(f"{len(missing)} tensors have no scale: {', '.join(missing[:4])}.")
    for name in placement.activations:
        if not (np.isfinite(scales[name]) and scales[name] > 0):
            raise ExportError(f"The scale of {name!r} is {scales[name]}, and must be positive and finite.")


class _Rewriter:
    """One pass over the nodes; a pair is written where its first reader stands."""

    def __init__(
        self,
        model: ModelProto,
        placement: Placement,
        scales: Mapping[str, float],
        weights: Mapping[str, QuantisedWeight],
        kind: EightBitType,
    ) -> None:
        self._graph = model.graph
        self._placement = placement
        self._scales = scales
        self._weights = weights
        self._kind = kind
        initialised = {tensor.name for tensor in model.graph.initializer}
        self._taken = all_names(model.graph.node) | initialised | {v.name for v in model.graph.input}
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._restored: dict[str, str] = {}

    def rewrite(self) -> None:
        reads: dict[int, list[tuple[int, str, bool]]] = {}
        for layer in self._placement.layers:
            reads.setdefault(layer.index, []).extend([(0, layer.activation, False), (1, layer.weight, True)])
        for residual in self._placement.residuals:
            reads.setdefault(residual.index, []).append((residual.position, residual.activation, False))
        for index, node in enumerate(self._graph.node):
            for position, name, is_weight in reads.get(index, ()):
                node.input[position] = self._weight(name) if is_weight else self._activation(name)
            self._nodes.append(node)
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        self._drop_unread({name for node in nodes for name in node.input})
        self._graph.initializer.extend(self._constants)

    def _drop_unread(self, read: set[str]) -> None:
        read |= onnx_graph.captured_names(self._graph) | {value.name for value in self._graph.output}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        if len(kept) < len(self._graph.initializer):
            copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
            del self._graph.initializer[:]
            self._graph.initializer.extend(copies)

    def _constant(self, values: NDArray[np.generic], name: str) -> str:
        name = unique_name(name, self._taken)
        self._constants.append(numpy_helper.from_array(values, name))
        return name

    def _zero(self, shape: tuple[int, ...], name: str) -> str:
        return self._constant(np.zeros(shape, self._kind.dtype), name)

    def _activation(self, name: str) -> str:
        if name not in self._restored:
            scale = self._constant(np.asarray(self._scales[name], np.float32), f"{name}_scale")
            zero = self._zero((), f"{name}_zero_point")
            stored = unique_name(f"{name}_quantized", self._taken)
            self._node("QuantizeLinear", [name, scale, zero], stored)
            self._restored[name] = unique_name(f"{name}_dequantized", self._taken)
            self._node("DequantizeLinear", [stored, scale, zero], self._restored[name])
        return self._restored[name]

    def _weight(self, name: str) -> str:
        if name not in self._restored:
            weight = self._weights[name]
            stored = self._constant(weight.values, f"{name}_quantized")
            scale = self._constant(weight.scale, f"{name}_scale")
            zero = self._zero(weight.scale.shape, f"{name}_zero_point")
            self._restored[name] = unique_name(f"{name}_dequantized", self._taken)
            self._node("DequantizeLinear", [stored, scale, zero], self._restored[name])
            if weight.axis is not None:
                self._nodes[-1].attribute.append(helper.make_attribute("axis", weight.axis))
        return self._restored[name]

    def _node(self, operator: str, inputs: list[str], output: str) -> None:
        name = unique_name(f"{output}/{operator}", self._taken)
        self._nodes.append(helper.make_node(operator, inputs, [output], name=name))
