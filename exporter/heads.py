"""The heads of a detector's graph: what its convolutions say, before boxes are sorted.

With random weights neighbouring boxes have nearly equal scores, and a rounding error decides which of them
survives; detections then say little about a graph in a smaller type. Its heads can be compared element by
element, like the logits of a classifier.
"""

from __future__ import annotations

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
