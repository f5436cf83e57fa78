"""The bias of a layer in a graph: found, and moved."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bbx.calibration.placement import Layer
from bbx.exporter.onnx_graph import all_names, captured_names, unique_name


def move_bias(model: ModelProto, layer: Layer, step: NDArray[np.float64]) -> bool:
    """Add to a layer's outputs, in place; a layer without a bias gets one.

    The bias becomes an initialiser of the layer's own, since layers may share one; the old one stays. Nodes
    keep their places.

    Args:
        step: [outputs].

    Returns:
        False, and the graph as it was, where there is no place for a bias: the graph computes it, or no
        constant is added to a matrix product.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    place = _place(graph, layer, tensors)
    if place is None:
        return False
    node, position = place
    old = node.input[position] if len(node.input) > position else ""
    moved = step + _added(node, tensors[old]) if old else step
    taken = all_names(graph.node) | set(tensors) | {value.name for value in graph.input}
    name = unique_name(f"{layer.weight}_corrected_bias", taken)
    if len(node.input) > position:
        node.input[position] = name
    else:
        node.input.append(name)
    for attribute in node.attribute:
        if attribute.name == "beta":
            attribute.f = 1.0
    graph.initializer.append(numpy_helper.from_array(moved.astype(np.float32), name))
    return True


def _place(
    graph: GraphProto, layer: Layer, tensors: Mapping[str, TensorProto]
) -> tuple[NodeProto, int] | None:
    """The node that adds the bias, and at which input."""
    node = graph.node[layer.index]
    if node.op_type != "MatMul":
        given = node.input[2] if len(node.input) > 2 else ""
        fits = not given or (given in tensors and _is_row(tensors[given]))
        return (node, 2) if fits else None
    output = node.output[0]
    if output in captured_names(graph) | {value.name for value in graph.output}:
        return None
    readers = [other for other in graph.node if output in other.input]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    position = 1 - list(readers[0].input).index(output)
    constant = tensors.get(readers[0].input[position])
    wanted = tensors[layer.weight].dims[-1]
    return (readers[0], position) if constant is not None and list(constant.dims) == [wanted] else None


def _is_row(tensor: TensorProto) -> bool:
    """Whether it adds the same to every row, as a bias does; a Gemm may add a matrix."""
    return all(size == 1 for size in tensor.dims[:-1])


def _added(node: NodeProto, tensor: TensorProto) -> NDArray[np.float64]:
    """What a node adds for this constant; of a Gemm's any shape that has one row."""
    beta = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "beta"), 1.0)
    return beta * numpy_helper.to_array(tensor).astype(np.float64).reshape(-1)
