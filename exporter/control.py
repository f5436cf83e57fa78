"""A control for comparisons of detections: how many change when a detector's heads move a little?

Where boxes have nearly one score, a rounding decides which of them survives suppression. A graph in a smaller
type that finds others there is no worse than noise of the same size in the original graph, and the original
graph with that noise shows it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from bbx.exporter.onnx_graph import FLOAT, all_names, unique_name


def stirred(model: ModelProto, amounts: Mapping[str, float], *, seed: int) -> ModelProto:
    """A copy of a graph with normal noise added to some of its tensors, the same in every run of a session.

    Args:
        amounts: by tensor (float32, given by a node), the standard deviation of its noise as a share of its
            root mean square, which is the relative L2 that the noise gives it.
        seed: of the noise; each tensor has its own.

    Raises:
        KeyError: no node of the main graph gives such a tensor.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    taken = all_names(copy.graph.node) | {tensor.name for tensor in copy.graph.initializer}
    makers = {name: node for node in copy.graph.node for name in node.output}
    after: dict[str, list[NodeProto]] = {}
    for index, (name, amount) in enumerate(amounts.items()):
        maker = makers[name]
        still, share = unique_name(f"{name}_still", taken), unique_name(f"{name}_share", taken)
        maker.output[list(maker.output).index(name)] = still
        copy.graph.initializer.append(numpy_helper.from_array(np.array(amount, np.float32), share))
        # From 1: to ONNX Runtime the seeds 0 and 1 are one.
        after[still] = _noise(still, share, name, taken, seed=1 + seed * len(amounts) + index)
    nodes = [each for node in copy.graph.node for each in (node, *_following(node, after))]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _following(node: NodeProto, after: Mapping[str, list[NodeProto]]) -> list[NodeProto]:
    return [each for name in node.output for each in after.get(name, ())]


def _noise(still: str, share: str, stirred: str, taken: set[str], *, seed: int) -> list[NodeProto]:
    """Nodes that make `stirred` of `still`: plus noise of that share of its root mean square."""
    square, mean, size, noise, wanted, scaled = (
        unique_name(f"{still}_{part}", taken)
        for part in ("square", "mean", "size", "noise", "wanted", "scaled")
    )
    return [
        helper.make_node("Mul", [still, still], [square]),
        helper.make_node("ReduceMean", [square], [mean], keepdims=0),
        helper.make_node("Sqrt", [mean], [size]),
        helper.make_node("RandomNormalLike", [still], [noise], dtype=FLOAT, seed=float(seed)),
        helper.make_node("Mul", [size, share], [wanted]),
        helper.make_node("Mul", [noise, wanted], [scaled]),
        helper.make_node("Add", [still, scaled], [stirred]),
    ]
