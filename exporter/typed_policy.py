"""Which operations of a typed graph stay in FP32, and why.

A module may ask for it (`bbx.exporter.to_onnx`). The list by operator follows `torch.autocast`'s list of
operations that run in float32 (https://pytorch.org/docs/stable/amp.html), extended by what carries
coordinates. The rest is decided from the graph (decomposed normalisations, long sums, shape arithmetic), from
its weights, and from ranges measured on real images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import NodeProto

from bbx.exporter.onnx_graph import subgraphs
from bbx.exporter.onnx_options import FLOAT32_MARK
from bbx.exporter.typed_facts import GraphFacts, half_inputs, half_outputs
from bbx.exporter.typed_structure import TYPE_BLIND, between, decomposed_norms, extent_of, shape_arithmetic


@dataclass(frozen=True, slots=True)
class TensorRange:
    """What a tensor's values were over all the images of a range scan.

    Attributes:
        minimum, maximum: infinite where an infinity or a NaN was seen.
        absmax: largest magnitude.
        subnormal_share: share of the nonzero values whose magnitude is below FP16's smallest normal, 2^-14.
        underflow_share: share of the nonzero values that FP16 rounds to zero, below half of 2^-24.
        finite: False when an infinity or a NaN was seen (attention masks hold infinities on purpose).
    """

    minimum: float
    maximum: float
    absmax: float
    subnormal_share: float
    underflow_share: float
    finite: bool


@dataclass(frozen=True, slots=True)
class KeptNode:
    """A node that computes in FP32 although a smaller type was asked for, and why."""

    name: str
    op_type: str
    reason: str


RANGE_MARGIN = 4.0
"""How many times larger than on the scanned images a value may become and must still fit."""
LONGEST_HALF_SUM = 1024
"""Elements up to which a mean or a sum may be taken in the smaller type."""
MOSTLY = 0.5
"""Share of a tensor's nonzero values from which, when FP16 rounds so many to zero, it is not kept in FP16."""

_SENSITIVE = {
    operator: reason
    for reason, operators in {
        "exponentials are summed": "Softmax LogSoftmax SoftmaxCrossEntropyLoss",
        "statistics of a normalisation": "LayerNormalization GroupNormalization InstanceNormalization"
        " RMSNormalization MeanVarianceNormalization LpNormalization LRN",
        "its derivative magnifies rounding errors": "Exp Log Pow Reciprocal Softplus Sinh Cosh Tan Acos Asin"
        " Acosh Atanh",
        "accumulates rounding errors or overflows": "CumSum ReduceProd ReduceL1 ReduceL2 ReduceSumSquare"
        " ReduceLogSum ReduceLogSumExp DFT STFT Det",
        "works on coordinates or angles": "RoiAlign MaxRoiPool NonMaxSuppression GridSample AffineGrid Sin"
        " Cos Range",
        "rounding makes ties between scores": "TopK",
        "draws random numbers": "RandomNormalLike RandomUniformLike Bernoulli Multinomial",
    }.items()
    for operator in operators.split()
}


_NOT_IN_BF16 = {"HardSwish"}
"""Operators that TensorRT's parser takes in FP32 and FP16 only."""
_BIAS = 2
"""Position of the bias among the inputs of Conv, ConvTranspose and Gemm."""


def keep_reasons(facts: GraphFacts, ranges: Mapping[str, TensorRange], *, half_io: bool) -> dict[int, str]:
    """The nodes that stay in FP32, by index, each with its reason.

    A tensor that `ranges` does not name is taken to fit. Nodes without a float32 tensor are not listed.
    """
    floating = [
        index
        for index, node in enumerate(facts.nodes)
        if any(map(facts.is_float, node.output))
        or (node.op_type not in TYPE_BLIND and any(map(facts.is_float, node.input)))
    ]
    kept: dict[int, str] = {}
    shape_nodes, norm_nodes = shape_arithmetic(facts), decomposed_norms(facts)
    for index in floating:
        node = facts.nodes[index]
        reason = stays_float32(node) or _structural_reason(node, facts)
        if reason is None and index in shape_nodes:
            reason = "computes shapes"
        if reason is None and index in norm_nodes:
            reason = "part of a normalisation written in primitives"
        reason = reason or _sum_reason(node, facts, ranges) or _range_reason(node, facts, ranges)
        if reason is not None:
            kept[index] = reason
    return dict(sorted((kept | between(facts, floating, kept, half_io=half_io)).items()))


def stays_float32(node: NodeProto) -> str | None:
    """Why the module that a node comes from wants it in FP32, as the exporter wrote on it, or None."""
    return next((entry.value for entry in node.metadata_props if entry.key == FLOAT32_MARK), None)


def _structural_reason(node: NodeProto, facts: GraphFacts) -> str | None:
    if any(True for _ in subgraphs(node)):
        return "holds a subgraph"
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, facts.opset, node.domain):
        return "not a standard ONNX operator"
    if node.op_type in _SENSITIVE or node.op_type in ("Cast", "ConstantOfShape"):
        return _SENSITIVE.get(node.op_type)
    if facts.half.name == "bf16" and node.op_type in _NOT_IN_BF16:
        return "TensorRT has no bf16 form of the operator"
    results = [facts.is_float(name) for name in node.output]
    if not any(half_inputs(node, facts)) or list(half_outputs(node, facts)) != results:
        return f"the operator has no {facts.half.name} form in opset {facts.opset}"
    return _constant_reason(node, facts)


def _constant_reason(node: NodeProto, facts: GraphFacts) -> str | None:
    for position, (name, castable) in enumerate(zip(node.input, half_inputs(node, facts), strict=True)):
        if castable and name in facts.initialisers:
            misfit = facts.misfit(name, bias=_is_bias(node, position, facts))
            if misfit is not None:
                return misfit
    return None


def _is_bias(node: NodeProto, position: int, facts: GraphFacts) -> bool:
    """Whether a constant is added to activations; a scalar may be the epsilon that guards a division."""
    if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
        return position == _BIAS
    return node.op_type in ("Add", "Sub") and len(facts.initialisers[node.input[position]].dims) > 0


def _sum_reason(node: NodeProto, facts: GraphFacts, ranges: Mapping[str, TensorRange]) -> str | None:
    if node.op_type not in ("ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool"):
        return None
    extent = extent_of(node, facts)
    if extent is None:
        return "sums over an extent that is not known"
    if extent > LONGEST_HALF_SUM:
        return f"sums {extent} values"
    seen = ranges.get(node.input[0])
    if seen is not None and seen.absmax * extent > facts.half.largest:
        return f"its sum may reach {seen.absmax * extent:.3g}"
    return None


def _range_reason(node: NodeProto, facts: GraphFacts, ranges: Mapping[str, TensorRange]) -> str | None:
    if facts.half.name != "fp16":
        return None  # BF16 has FP32's range
    for name in (*node.output, *node.input):
        seen = ranges.get(name)
        if seen is None or not facts.is_float(name):
            continue
        if not seen.finite:
            return f"{name} holds infinities or NaNs on real images"
        if seen.absmax * RANGE_MARGIN > facts.half.largest:
            return f"{name} reaches {seen.absmax:.3g} on real images"
        if seen.underflow_share > MOSTLY:
            return f"{seen.underflow_share:.0%} of {name} rounds to zero in FP16"
    return None
