"""Where a graph computes in eight or sixteen bits, node by node.

A node is *low* when it reads or writes 16-bit floats, or reads what a DequantizeLinear gives. Casts and Q/DQ
nodes are no such nodes, they are how the others are low. A graph's output that a DequantizeLinear gives has
no reader in the graph, so that DequantizeLinear stands for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bbx.errors import ArtifactError
from bbx.exporter import onnx_graph
from bbx.exporter.onnx_graph import FLOAT, captured_names, opset_of, subgraphs, tensor_infos
from bbx.types import Precision

HALF: dict[int, Precision] = {int(TensorProto.FLOAT16): "fp16", int(TensorProto.BFLOAT16): "bf16"}
"""What 16-bit element types are called."""

_NOT_COUNTED = {"Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "Constant", "ConstantOfShape"}
_INTEGER_KERNELS = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


@dataclass(frozen=True, slots=True)
class LowNode:
    """A node that computes in fewer bits than 32.

    Attributes:
        index: in `LowGraph.nodes`.
        name: of the node, or of its first output; for a graph's output that is quantised, the output's.
        op_type: its operator; `Output` for a graph's output.
        precisions: `int8`, `fp8`, `fp16`, `bf16`: those that it reads or writes.
    """

    index: int
    name: str
    op_type: str
    precisions: tuple[Precision, ...]


@dataclass(frozen=True, slots=True)
class LowGraph:
    """A prepared graph, indexed, and its low nodes.

    Attributes:
        nodes: of the main graph.
        types: element type of each tensor, where it is known.
        producer: index of the node that gives a tensor.
        constants: initialisers by name.
        pinned: names that something outside the nodes reads: outputs, and what subgraphs capture.
        low: the low nodes, in the graph's order.
    """

    model: ModelProto
    nodes: tuple[NodeProto, ...]
    types: Mapping[str, int]
    producer: Mapping[str, int]
    constants: Mapping[str, TensorProto]
    pinned: frozenset[str]
    low: tuple[LowNode, ...]
    _values: dict[str, NDArray[Any] | None] = field(default_factory=dict)

    def producer_of(self, name: str, operator: str) -> NodeProto | None:
        """The node that gives a tensor, if it is of this operator."""
        index = self.producer.get(name)
        node = None if index is None else self.nodes[index]
        return node if node is not None and node.op_type == operator else None

    def quantised_source(self, name: str) -> tuple[NodeProto, NodeProto] | None:
        """The QuantizeLinear and the DequantizeLinear that a tensor came through, if it did."""
        dequantize = self.producer_of(name, "DequantizeLinear")
        quantize = dequantize and self.producer_of(dequantize.input[0], "QuantizeLinear")
        return (quantize, dequantize) if quantize is not None and dequantize is not None else None

    def constant(self, name: str) -> NDArray[np.float32] | None:
        """The float values of a constant tensor as its readers see it, dequantised; None for any other."""
        if name not in self._values:
            self._values[name] = self._constant(name)
        return self._values[name]

    def _constant(self, name: str) -> NDArray[np.float32] | None:
        if name in self.constants:
            tensor = self.constants[name]
            is_float = tensor.data_type == FLOAT or tensor.data_type in HALF
            return numpy_helper.to_array(tensor).astype(np.float32) if is_float else None
        node = self.producer_of(name, "DequantizeLinear")
        if node is None or not all(each in self.constants for each in node.input if each):
            return None
        return dequantised(node, [numpy_helper.to_array(self.constants[each]) for each in node.input if each])


def low_graph(model: ModelProto, subject: str) -> LowGraph:
    """Index a graph and find its low nodes.

    Args:
        model: any valid model, its weights loaded; it is not changed.
        subject: what the graph is called in an error.

    Raises:
        ArtifactError: nothing in it is quantised or of 16 bits.
        ExportError: it imports no standard operators.
    """
    source = onnx_graph.prepared(model, opset=opset_of(model))
    graph = source.graph
    found = LowGraph(
        model=source,
        nodes=tuple(graph.node),
        types={name: info.elem_type for name, info in tensor_infos(source).items()},
        producer={name: index for index, node in enumerate(graph.node) for name in node.output if name},
        constants={tensor.name: tensor for tensor in graph.initializer},
        pinned=frozenset({value.name for value in graph.output} | captured_names(graph)),
        low=(),
    )
    outputs = {value.name for value in graph.output}
    low = tuple(each for index in range(len(found.nodes)) if (each := _low_node(found, index, outputs)))
    if not low:
        kernels = sorted({node.op_type for node in found.nodes} & _INTEGER_KERNELS)
        raise ArtifactError(
            f"{subject} computes in FP32 throughout: no node reads quantised or 16-bit values."
            if not kernels
            else f"{subject} has integer kernels ({', '.join(kernels)}) and no Q/DQ nodes.",
            hint="Name a typed graph (bbx export --fp16) or one with Q/DQ nodes.",
        )
    return replace(found, low=low)


def _low_node(graph: LowGraph, index: int, outputs: Collection[str]) -> LowNode | None:
    node = graph.nodes[index]
    if node.op_type == "DequantizeLinear" and node.output[0] in outputs:
        pair = graph.quantised_source(node.output[0])
        if pair is not None and graph.types.get(node.output[0]) == FLOAT:
            return LowNode(index, node.output[0], "Output", (_eight_bits(graph, pair[1]),))
    if node.op_type in _NOT_COUNTED or any(True for _ in subgraphs(node)):
        return None
    found: list[Precision] = []
    for name in node.input:
        dequantize = graph.producer_of(name, "DequantizeLinear")
        if dequantize is not None:
            found.append(_eight_bits(graph, dequantize))
    halves = {graph.types.get(name) for name in (*node.input, *node.output)} & HALF.keys()
    found += [HALF[elem] for elem in sorted(each for each in halves if each is not None)]
    if not found:
        return None
    return LowNode(index, node.name or node.output[0], node.op_type, tuple(dict.fromkeys(found)))


def _eight_bits(graph: LowGraph, dequantize: NodeProto) -> Precision:
    """FP8 or, for integers of any width, INT8."""
    stored = graph.types.get(dequantize.input[0])
    if stored is None and len(dequantize.input) > 2:
        stored = graph.types.get(dequantize.input[2])
    name = "" if stored is None else TensorProto.DataType.Name(stored)
    return "fp8" if name.startswith("FLOAT8") else "int8"


def precision_of(model: ModelProto) -> Precision:
    """The precision that a graph is in: that of its Q/DQ nodes, else of its 16-bit nodes, else FP32."""
    try:
        found = {each for node in low_graph(model, "").low for each in node.precisions}
    except ArtifactError:
        return "fp32"
    order: tuple[Precision, ...] = ("fp8", "int8", "bf16", "fp16")
    return next(each for each in order if each in found)


def dequantised(node: NodeProto, inputs: list[NDArray[Any]]) -> NDArray[np.float32]:
    """What a DequantizeLinear gives, in float32; by tensor, by axis or by block.

    Args:
        inputs: stored values, scale and, if there is one, zero point.
    """
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    axis, block = int(attributes.get("axis", 1)), int(attributes.get("block_size", 0))
    stored = inputs[0].astype(np.float32)
    scale, zero = (
        _against(each.astype(np.float32), stored, axis, block)
        for each in (inputs[1], inputs[2] if len(inputs) > 2 else np.zeros_like(inputs[1]))
    )
    restored: NDArray[np.float32] = (stored - zero) * scale
    return restored


def _against(
    values: NDArray[np.float32], stored: NDArray[np.float32], axis: int, block: int
) -> NDArray[np.float32]:
    """Scales or zero points in a shape that broadcasts against the stored values."""
    if block:
        wide = np.repeat(values, block, axis=axis)
        return np.take(wide, np.arange(stored.shape[axis]), axis=axis)
    if values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if each == axis % stored.ndim else 1 for each in range(stored.ndim)])
