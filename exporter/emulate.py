"""A 16-bit graph that any CPU can run: FP32 arithmetic, rounded wherever the typed graph holds 16 bits.

No CPU runtime has BF16 kernels, yet the parity of a BF16 graph must be known before a GPU is near. A GPU
multiplies 16-bit inputs and accumulates in FP32, then rounds; so does this graph. What remains different
is the order of summation, and rounding between operations that a compiler fuses.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bbx.exporter.onnx_graph import FLOAT, all_names, infer_and_check, tensor_infos, unique_name

_HALF = (int(TensorProto.FLOAT16), int(TensorProto.BFLOAT16))
_EXACT = {
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Split", "Concat"),
    *("Gather", "Expand", "Tile", "Relu", "MaxPool", "GlobalMaxPool", "Max", "Min", "Abs", "Neg", "Where"),
    *("DepthToSpace", "SpaceToDepth", "ConstantOfShape"),
}
"""Operators whose result is made of values that were rounded already."""


def emulated_from_typed(model: ModelProto) -> ModelProto:
    """Rewrite a typed graph into an FP32 graph that computes the same, rounding included.

    16-bit inputs and outputs become float32 ones that hold 16-bit values. Runtimes must not remove a cast
    to 16 bits and back; ONNX Runtime does not (a test watches it).

    Raises:
        ExportError: the result is not a valid graph.
    """
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    types = {name: info.elem_type for name, info in tensor_infos(model).items()}
    taken = all_names(result.graph.node) | {tensor.name for tensor in result.graph.initializer}
    _emulate(result.graph, types, taken)
    infer_and_check(result)
    return result


def _emulate(graph: GraphProto, types: Mapping[str, int], taken: set[str]) -> None:
    for tensor in graph.initializer:
        _widen(tensor)
    nodes = []
    for value in graph.input:
        elem = value.type.tensor_type.elem_type
        if elem in _HALF:
            value.type.tensor_type.elem_type = FLOAT
            rounded = unique_name(f"{value.name}_rounded", taken)
            nodes += _rounding(value.name, rounded, elem, taken)
            for node in graph.node:
                for index, name in enumerate(node.input):
                    if name == value.name:
                        node.input[index] = rounded
    for value in graph.output:
        if value.type.tensor_type.elem_type in _HALF:
            value.type.tensor_type.elem_type = FLOAT
    for node in graph.node:
        nodes += _emulated_node(node, types, taken)
    del graph.node[:]
    graph.node.extend(nodes)


def _emulated_node(node: NodeProto, types: Mapping[str, int], taken: set[str]) -> list[NodeProto]:
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype", "output_dtype") and attribute.i in _HALF:
            attribute.i = FLOAT
        if attribute.type == onnx.AttributeProto.TENSOR:
            _widen(attribute.t)
    added = []
    for index, name in enumerate(node.output):
        if types.get(name) in _HALF and node.op_type not in _EXACT:
            node.output[index] = unique_name(f"{name}_exact", taken)
            added += _rounding(node.output[index], name, types[name], taken)
    return [node, *added]


def _rounding(source: str, result: str, elem: int, taken: set[str]) -> list[NodeProto]:
    half = unique_name(f"{result}_16bit", taken)
    return [
        helper.make_node("Cast", [source], [half], name=half, to=elem),
        helper.make_node("Cast", [half], [result], name=f"{half}_back", to=FLOAT),
    ]


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _HALF:
        array = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
