"""Where to look first: how likely each low node is at fault, from its constants and the reference's ranges.

Suspicion decides only in which order nodes are tried. Whether one is at fault is seen from running the graph
with it put back to FP32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from bbx.calibration.low_precision import HALF, LowGraph, LowNode
from bbx.calibration.restore import Weights
from bbx.exporter.onnx_graph import FLOAT
from bbx.exporter.typed_policy import RANGE_MARGIN, TensorRange

LEAST = 1e-3
"""Suspicion of a node about which nothing speaks."""

_ANOTHER = 0.5
"""Relative error of a constant that is no rounding, however coarse."""
_LARGEST_HALF = 65504.0
_LEVELS = {"int8": 127.0, "uint8": 127.0}
_FP8_LEVELS = 448.0


def counterparts(graph: LowGraph, reference: ModelProto) -> dict[int, NodeProto]:
    """For each low node the node of the reference that it was made from, where there is one.

    They are found by the node's name, else by the name of an output; the operator and the number of inputs
    are the same.

    Args:
        reference: prepared.
    """
    by_name = {node.name: node for node in reference.graph.node if node.name}
    by_output = {name: node for node in reference.graph.node for name in node.output if name}
    found: dict[int, NodeProto] = {}
    for low in graph.low:
        node = graph.nodes[low.index]
        candidates = [by_name.get(node.name), *(by_output.get(name) for name in node.output)]
        for match in candidates:
            same = match is not None and match.op_type == node.op_type
            if match is not None and same and len(match.input) == len(node.input):
                found[low.index] = match
                break
    return found


def reference_weights(
    graph: LowGraph, matches: Mapping[int, NodeProto], reference: ModelProto
) -> dict[tuple[int, int], NDArray[np.float32]]:
    """The reference's float constants at inputs of low nodes, where the graph has some of that shape.

    None, where most of them are others: then it is the reference of another network, or its batch norms were
    folded since, and its constants are of no use here.
    """
    constants = {tensor.name: tensor for tensor in reference.graph.initializer if tensor.data_type == FLOAT}
    found = {}
    errors = []
    for index, match in matches.items():
        for position, (mine, theirs) in enumerate(zip(graph.nodes[index].input, match.input, strict=True)):
            own = graph.constant(mine)
            if own is not None and theirs in constants and own.shape == tuple(constants[theirs].dims):
                found[index, position] = numpy_helper.to_array(constants[theirs])
                errors.append(_relative(own, found[index, position]))
    return found if errors and np.median(errors) < _ANOTHER else {}


def _relative(own: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Relative L2 of a constant, at most 1."""
    norm = float(np.linalg.norm(theirs)) or 1.0
    error = float(np.linalg.norm(own.astype(np.float64) - theirs)) / norm
    return min(error, 1.0) if np.isfinite(error) else 1.0


def suspicions(
    graph: LowGraph,
    matches: Mapping[int, NodeProto],
    weights: Weights,
    ranges: Mapping[str, TensorRange],
) -> list[float]:
    """How suspicious each low node is, from `LEAST` to 1, in the order of `graph.low`.

    Args:
        matches: from `counterparts`.
        weights: from `reference_weights`.
        ranges: of the reference's tensors, on real images.
    """
    return [
        max(LEAST, *_constant_doubts(graph, low, weights), *_activation_doubts(graph, low, matches, ranges))
        for low in graph.low
    ]


def _constant_doubts(graph: LowGraph, low: LowNode, weights: Weights) -> list[float]:
    """How far each constant is from the reference's, as relative L2."""
    found = [LEAST]
    for position, name in enumerate(graph.nodes[low.index].input):
        own, theirs = graph.constant(name), weights.get((low.index, position))
        if own is not None and theirs is not None:
            found.append(_relative(own, theirs))
    return found


def _activation_doubts(
    graph: LowGraph, low: LowNode, matches: Mapping[int, NodeProto], ranges: Mapping[str, TensorRange]
) -> list[float]:
    node, match = graph.nodes[low.index], matches.get(low.index)
    read = list(zip(node.input, match.input if match else node.input, strict=True))
    written = list(zip(node.output, match.output if match else node.output, strict=False))
    found = [LEAST]
    for name, theirs in read:
        scale = _scale_of(graph, name)
        seen = ranges.get(theirs)
        if scale is not None and seen is not None and seen.finite and seen.absmax > 0:
            found.append(_scale_doubt(scale, seen.absmax))
    for name, theirs in (*read, *written):
        seen = ranges.get(theirs)
        if seen is not None and HALF.get(graph.types.get(name, 0)) == "fp16":
            found.append(_half_doubt(seen))
    return found


def _scale_of(graph: LowGraph, name: str) -> tuple[float, float] | None:
    """Scale and largest stored value of the Q/DQ pair before a tensor, where they are one number."""
    pair = graph.quantised_source(name)
    scale = graph.constants.get(pair[0].input[1]) if pair else None
    values = None if scale is None else numpy_helper.to_array(scale).astype(np.float64)
    if pair is None or values is None or values.size != 1:
        return None
    zero = graph.constants.get(pair[0].input[2]) if len(pair[0].input) > 2 else None
    stored = "uint8" if zero is None else str(numpy_helper.to_array(zero).dtype)
    return float(values.reshape(-1)[0]), _LEVELS.get(stored, _FP8_LEVELS)


def _scale_doubt(scale: tuple[float, float], largest: float) -> float:
    """What share of the range is cut off, or how coarse a step is within it."""
    step, levels = scale
    reach = step * levels / largest
    if not np.isfinite(reach) or reach <= 0:
        return 1.0
    return float((1 - reach) ** 2 if reach < 1 else min(1.0, reach / levels))


def _half_doubt(seen: TensorRange) -> float:
    if not seen.finite or seen.absmax > _LARGEST_HALF:
        return 1.0
    near = 0.5 if seen.absmax * RANGE_MARGIN > _LARGEST_HALF else 0.0
    return max(near, seen.underflow_share)
