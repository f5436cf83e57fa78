"""Where Q/DQ pairs go, so that TensorRT computes in eight bits and fuses as before.

The rules are those of TensorRT's guide to explicit quantisation ("Q/DQ placement recommendations"): both
inputs of a convolution or matrix product are quantised, its output is not, so that the activation, the bias
and a residual addition after it stay in one kernel; the other input of that addition is quantised, so that
the kernel reads eight bits; weights have one scale an output channel, activations one a tensor; biases stay
in floating point.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto, NodeProto, helper

from bbx.exporter.onnx_graph import FLOAT
from bbx.exporter.typed_facts import HALF_TYPES, GraphFacts, graph_facts
from bbx.exporter.typed_policy import KeptNode, stays_float32
from bbx.exporter.typed_structure import shape_arithmetic

Role = Literal["first", "last", "depthwise", "layer"]

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operators whose second input may be a weight."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or matrix product whose two inputs are quantised.

    Attributes:
        name: of the node; its first output's where it has none.
        index: of the node in the prepared graph.
        activation: tensor at its first input.
        weight: initialiser at its second input.
        axis: of the weight's output channels; None for one scale for the whole weight.
        role: `first` has no layer between itself and an input, `last` none between itself and an output;
            `depthwise` convolves each channel by itself.
    """

    name: str
    op_type: str
    index: int
    activation: str
    weight: str
    axis: int | None
    role: Role


@dataclass(frozen=True, slots=True)
class Residual:
    """The input of an addition that the convolution at its other input reads in eight bits.

    Attributes:
        index: of the addition in the prepared graph.
        position: of the input.
    """

    name: str
    index: int
    position: int
    activation: str


@dataclass(frozen=True, slots=True)
class Placement:
    """What is quantised in a prepared graph.

    Attributes:
        kept: convolutions and matrix products that are not, and why; in the graph's order.
    """

    layers: tuple[Layer, ...]
    residuals: tuple[Residual, ...]
    kept: tuple[KeptNode, ...]

    @property
    def activations(self) -> tuple[str, ...]:
        """Tensors that need a scale, each once, in the order in which layers read them."""
        reads = [(layer.index, layer.activation) for layer in self.layers]
        reads += [(residual.index, residual.activation) for residual in self.residuals]
        return tuple(dict.fromkeys(activation for _, activation in sorted(reads)))

    @property
    def roles(self) -> Mapping[str, str]:
        """What each tensor of `activations` feeds: the role of its first layer, or `residual`."""
        found: dict[str, str] = {}
        for layer in self.layers:
            found.setdefault(layer.activation, layer.role)
        for residual in self.residuals:
            found.setdefault(residual.activation, "residual")
        return found


def place(
    model: ModelProto, *, keep: Mapping[str, str] | None = None, scaled: Collection[str] | None = None
) -> Placement:
    """Decide what to quantise in a graph that `exporter.onnx_graph.prepared` made.

    Args:
        keep: names of layers to leave in floating point, each with the reason to report.
        scaled: tensors that have a scale, where calibration is over. Of the sum of two convolutions, one that
            is kept now would be the quantised input; it was not before, and stays in floating point.
    """
    facts = graph_facts(model, HALF_TYPES["fp16"])
    shapes = shape_arithmetic(facts)
    keep = keep or {}
    kept: list[KeptNode] = []
    found: list[tuple[int, NodeProto]] = []
    for index, node in enumerate(facts.nodes):
        if node.op_type not in WEIGHTED or node.domain not in ("", "ai.onnx"):
            continue
        name = name_of(node)
        reason = keep.get(name) or _refusal(node, facts) or ("computes shapes" if index in shapes else None)
        if reason is None:
            found.append((index, node))
        else:
            kept.append(KeptNode(name, node.op_type, reason))
    weighted = {index for index, node in enumerate(facts.nodes) if _is_product(node, facts)}
    first, last = _ends(facts, weighted)
    layers = tuple(_layer(index, node, facts, first=first, last=last) for index, node in found)
    residuals = (each for each in _residuals(facts, layers) if scaled is None or each.activation in scaled)
    return Placement(layers, tuple(residuals), tuple(kept))


def name_of(node: NodeProto) -> str:
    """What a node is called: its name, or its first output's."""
    return node.name or node.output[0]


def _is_product(node: NodeProto, facts: GraphFacts) -> bool:
    return node.op_type in WEIGHTED and _refusal(node, facts) is None


def _refusal(node: NodeProto, facts: GraphFacts) -> str | None:
    """Why a convolution or matrix product cannot be quantised."""
    marked = stays_float32(node)
    if marked is not None:
        return marked
    activation, weight = node.input[0], node.input[1]
    if weight not in facts.initialisers and activation in facts.initialisers:
        return "its weight is the first input"
    if weight not in facts.initialisers:
        return "a product of two activations, which TensorRT fuses in FP16"
    if not facts.is_float(activation) or facts.initialisers[weight].data_type != FLOAT:
        return "does not work on float32"
    if activation in facts.initialisers:
        return "its input is a constant"
    return None


def _ends(facts: GraphFacts, weighted: Collection[int]) -> tuple[set[int], set[int]]:
    """Layers with no layer between themselves and an input, and those with none before an output."""
    after: set[str] = set()
    first: set[int] = set()
    for index, node in enumerate(facts.nodes):
        behind = any(name in after for name in node.input)
        if index in weighted and not behind:
            first.add(index)
        if behind or index in weighted:
            after.update(node.output)
    before: set[str] = set()
    last: set[int] = set()
    for index in range(len(facts.nodes) - 1, -1, -1):
        node = facts.nodes[index]
        ahead = any(name in before for name in node.output)
        if index in weighted and not ahead:
            last.add(index)
        if ahead or index in weighted:
            before.update(node.input)
    return first, last


def _layer(index: int, node: NodeProto, facts: GraphFacts, *, first: set[int], last: set[int]) -> Layer:
    role: Role = "layer"
    if _is_depthwise(node, facts):
        role = "depthwise"
    if index in last:
        role = "last"
    if index in first:
        role = "first"
    return Layer(
        name_of(node), node.op_type, index, node.input[0], node.input[1], channel_axis(node, facts), role
    )


def _is_depthwise(node: NodeProto, facts: GraphFacts) -> bool:
    return node.op_type == "Conv" and _groups(node) > 1 and facts.initialisers[node.input[1]].dims[1] == 1


def _groups(node: NodeProto) -> int:
    return _integer(node, "group", 1)


def _integer(node: NodeProto, name: str, default: int) -> int:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def channel_axis(node: NodeProto, facts: GraphFacts) -> int | None:
    """Axis of the output channels in a layer's weight.

    None for a grouped ConvTranspose, whose axis 1 counts the channels of one group only.
    """
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if _groups(node) == 1 else None
    if node.op_type == "Gemm":
        return 0 if _integer(node, "transB", 0) else 1
    rank = len(facts.initialisers[node.input[1]].dims)
    return rank - 1 if rank > 1 else None


def _residuals(facts: GraphFacts, layers: Iterable[Layer]) -> Iterable[Residual]:
    """For each addition of a convolution's output to another tensor of its shape: that other tensor."""
    convolutions = {
        facts.nodes[layer.index].output[0]: layer.index
        for layer in layers
        if layer.op_type.startswith("Conv")
    }
    depth = _depths(facts)
    for index, node in enumerate(facts.nodes):
        if node.op_type != "Add" or any(name in facts.initialisers for name in node.input):
            continue
        if stays_float32(node) is not None or not _same_shape(node, facts):
            continue
        fused = [p for p in (0, 1) if node.input[p] in convolutions and _read_once(node.input[p], facts)]
        if not fused or node.input[0] == node.input[1]:
            continue
        # Of two convolutions the one at the end of the longer branch takes the addition in.
        taken = max(fused, key=lambda p: (depth[convolutions[node.input[p]]], convolutions[node.input[p]]))
        yield Residual(name_of(node), index, 1 - taken, node.input[1 - taken])


def _same_shape(node: NodeProto, facts: GraphFacts) -> bool:
    shapes = [facts.infos[name].shape if name in facts.infos else None for name in node.input]
    return None in shapes or shapes[0] == shapes[1]


def _read_once(name: str, facts: GraphFacts) -> bool:
    return len(facts.readers.get(name, ())) == 1 and name not in facts.outputs | facts.captured


def _depths(facts: GraphFacts) -> list[int]:
    """Nodes on the longest way from an input to each node."""
    depth = [0] * len(facts.nodes)
    for index, node in enumerate(facts.nodes):
        makers = [facts.producer[name] for name in node.input if name in facts.producer]
        depth[index] = 1 + max((depth[maker] for maker in makers), default=0)
    return depth
