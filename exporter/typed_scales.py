"""Scales of Q/DQ nodes that a 16-bit type cannot hold.

What a DequantizeLinear gives has the type of its scale, so that a graph in FP16 has its scales in FP16. Below
2^-14 that type has fewer and fewer digits, and below 2^-25 none: a channel would change by half of itself, or
get a scale of zero, which TensorRT refuses. Trained networks have such channels where a filter died.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from bbx.exporter.onnx_graph import FLOAT, along_axis
from bbx.exporter.typed_facts import HalfType

_QDQ = ("QuantizeLinear", "DequantizeLinear")


def fit_scales(model: ModelProto, half: HalfType) -> None:
    """Raise small scales to values that the type holds exactly, in place.

    Stored weights are rounded anew with their raised scale; of activations the range grows. Scales that the
    type holds with all its digits stay as they are, to be rounded like any other constant. So do those of
    weights that a node reads in any other way.

    Args:
        model: prepared, its weights loaded.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    users: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in set(node.input):
            users.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}
    for name, tensor in tensors.items():
        readers = users.get(name, [])
        if tensor.data_type != FLOAT or name in outputs or not readers:
            continue
        if not all(node.op_type in _QDQ and node.input[1] == name for node in readers):
            continue
        scale = numpy_helper.to_array(tensor)
        raised = _raised(scale, half)
        weights = {node.input[0]: node for node in readers if node.input[0] in tensors}
        if np.array_equal(raised, scale) or not all(
            len(users[weight]) == 1 and weight not in outputs and _fits(node, tensors, scale)
            for weight, node in weights.items()
        ):
            continue
        for weight, node in weights.items():
            _round_anew(tensors[weight], node, tensors, scale / raised)
        tensor.CopyFrom(numpy_helper.from_array(raised, name))


def _raised(scale: NDArray[np.float32], half: HalfType) -> NDArray[np.float32]:
    """Scales below the type's normal values as the next multiple of its least one."""
    steps = np.maximum(np.ceil(scale.astype(np.float64) / half.least), 1)
    small = (scale >= 0) & (scale < half.least_normal)
    return np.where(small, steps * half.least, scale).astype(np.float32)


def _fits(node: NodeProto, tensors: Mapping[str, TensorProto], scale: NDArray[np.float32]) -> bool:
    """Whether stored values can be rounded anew: of the whole weight or of each channel at once."""
    zero = node.input[2] if len(node.input) > 2 else ""
    return scale.ndim <= 1 and node.op_type == "DequantizeLinear" and (not zero or zero in tensors)


def _round_anew(
    weight: TensorProto,
    node: NodeProto,
    tensors: Mapping[str, TensorProto],
    ratio: NDArray[np.floating],
) -> None:
    """Multiply a weight's distance from its zero point, in place; `ratio`, [] or [channels], is at most 1."""
    values = numpy_helper.to_array(weight)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    zero = numpy_helper.to_array(tensors[node.input[2]]) if len(node.input) > 2 and node.input[2] else 0
    middle = along_axis(np.asarray(zero).astype(np.float64), axis, values.ndim)
    factor = along_axis(ratio.astype(np.float64), axis, values.ndim)
    wanted = (values.astype(np.float64) - middle) * factor + middle
    whole = np.issubdtype(values.dtype, np.integer)
    stored = (np.rint(wanted) if whole else wanted).astype(values.dtype)
    weight.CopyFrom(numpy_helper.from_array(stored, weight.name))
