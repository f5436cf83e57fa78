"""The heads of a detector's graph, what its convolutions say, and the decisions that stand before them.

With random weights neighbouring boxes have nearly equal scores, and a rounding error decides which of them
survives; detections then say little about a graph in a smaller type. Its heads can be compared element by
element, like the logits of a classifier. The heads of a second stage look at boxes that were chosen by then:
two graphs answer the same question there once both are given the same choice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from onnx import ModelProto, TensorProto

from bbx.exporter.onnx_graph import FLOAT, TensorInfo, tensor_infos
from bbx.exporter.parts import reads_of
from bbx.exporter.typed_policy import stays_float32

_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
SORTING = frozenset({"TopK", "NonMaxSuppression", "NonZero", "Unique"})
"""Operators whose results stand in an order, or in a number, that values decide."""
_OF_SHAPES = {"Shape", "Size"}
"""They read no values."""
_ROUNDING = {"QuantizeLinear", "DynamicQuantizeLinear"}
"""What they give stands for the numbers that they read."""
_NUMBERS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_DISCRETE = {
    getattr(TensorProto, name)
    for name in ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
}


def heads_of(model: ModelProto) -> tuple[str, ...]:
    """Tensors that go from the network proper into the box arithmetic, and nowhere else.

    Args:
        model: a graph in which the exporter marked the box arithmetic (`float32_because`).

    Returns:
        Their names, in the graph's order; none where nothing is marked.
    """
    infos = tensor_infos(model)
    network: set[str] = set()
    read_on: set[str] = set()
    read_by_boxes: dict[str, None] = {}
    for index, node in enumerate(model.graph.node):
        if stays_float32(node) is not None:
            read_by_boxes |= dict.fromkeys(node.input)
            continue
        reads = reads_of(model, index)
        read_on |= set() if node.op_type in _OF_SHAPES else reads
        if node.op_type in _LAYERS or not network.isdisjoint(reads):
            network.update(node.output)
    heads = network - read_on
    return tuple(name for name in read_by_boxes if name in heads and _is(name, infos, {FLOAT}))


def unsorted_heads(model: ModelProto) -> tuple[str, ...]:
    """The heads that depend on no decision: of a two-stage detector those of its first stage."""
    return tuple(name for name, found in decisions_before(model, heads_of(model)).items() if not found)


def decisions_before(model: ModelProto, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The last decisions on every way to each of these tensors, in the graph's order.

    A decision is what numbers become when they are sorted, compared, counted or cut to integers: with it
    given, the tensors change smoothly with the weights and activations before them, and keep their shapes.

    Args:
        names: tensors of the main graph; a decision among them stands before itself.
    """
    deciding = _deciding(model)
    makers = {name: index for index, node in enumerate(model.graph.node) for name in node.output if name}

    def before(tensor: str) -> tuple[str, ...]:
        wanted, seen, found = [tensor], set[str](), set[str]()
        while wanted:
            name = wanted.pop()
            if name in seen or name not in makers:
                continue
            seen.add(name)
            if makers[name] in deciding:
                found.update(output for output in model.graph.node[makers[name]].output if output)
            else:
                wanted += reads_of(model, makers[name])
        return tuple(name for name in makers if name in found)

    return {name: before(name) for name in names}


def _deciding(model: ModelProto) -> set[int]:
    """Indices of the nodes that make decisions from values that depend on the graph's inputs."""
    infos = tensor_infos(model)
    depends = {value.name for value in model.graph.input} - {t.name for t in model.graph.initializer}
    found = set()
    for index, node in enumerate(model.graph.node):
        read = reads_of(model, index) & depends
        if not read or node.op_type in _OF_SHAPES:
            continue
        depends.update(node.output)
        numbers = any(_is(name, infos, _NUMBERS) for name in read)
        discrete = any(_is(name, infos, _DISCRETE) for name in node.output)
        if node.op_type in SORTING or (numbers and discrete and node.op_type not in _ROUNDING):
            found.add(index)
    return found


def _is(name: str, infos: Mapping[str, TensorInfo], types: Collection[int]) -> bool:
    return name in infos and infos[name].elem_type in types
