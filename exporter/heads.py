"""The heads of a detector's graph: what its convolutions say, before boxes are sorted.

With random weights neighbouring boxes have nearly equal scores, and a rounding error decides which of them
survives; detections then say little about a graph in a smaller type. Its heads can be compared element by
element, like the logits of a classifier.
"""

from __future__ import annotations

import onnx
from onnx import ModelProto

from bbx.exporter.typed_policy import stays_float32

_SORTING = {"TopK", "NonMaxSuppression", "NonZero"}


def unsorted_heads(model: ModelProto) -> tuple[str, ...]:
    """Tensors that go from the network proper into the box arithmetic, and do not depend on any order.

    Args:
        model: a graph in which the exporter marked the box arithmetic (`float32_because`).

    Returns:
        Their names, in the graph's order; none where nothing is marked.
    """
    sorted_by: set[str] = set()
    made: set[str] = set()
    heads: dict[str, None] = {}
    for node in model.graph.node:
        marked = stays_float32(node) is not None
        if node.op_type in _SORTING or any(name in sorted_by for name in node.input):
            sorted_by.update(node.output)
        elif marked:
            heads |= dict.fromkeys(name for name in node.input if name in made)
        if not marked:
            made.update(node.output)
    return tuple(heads)


def cut_at(model: ModelProto, names: tuple[str, ...]) -> ModelProto:
    """The part of a graph that these tensors need, with them as its outputs.

    Raises:
        KeyError: the graph has no such tensor.
    """
    makers = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    wanted, needed = [makers[name] for name in names], set[int]()
    while wanted:
        index = wanted.pop()
        if index not in needed:
            needed.add(index)
            wanted += [makers[name] for name in model.graph.node[index].input if name in makers]
    part = ModelProto()
    part.CopyFrom(model)
    nodes = [model.graph.node[index] for index in sorted(needed)]
    del part.graph.node[:], part.graph.output[:]
    part.graph.node.extend(nodes)
    types = {value.name: value for value in onnx.shape_inference.infer_shapes(part).graph.value_info}
    part.graph.output.extend(types[name] for name in names)
    return part
