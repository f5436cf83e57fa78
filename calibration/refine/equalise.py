"""Cross-layer equalisation: channels of an activation brought to like ranges, at the cost of no accuracy.

Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section
4.1. Where a channel passes from convolutions to convolutions through operations f with f(s x) = s f(x) for
s > 0, it may be multiplied by s in the first ones' weights and biases and divided by s in the second ones'
weights. Three things differ from the paper:

- Weights have a scale of their own for each output channel here, so the first weights' ranges need no help.
  What is balanced against the second weights' is the range of the activation itself, which has one scale for
  all of its channels (as Xiao et al. 2022, "SmoothQuant", balance them).
- Additions join what they add: all tensors of a residual stream get the same factors.
- Factors are powers of two, so that every output of the FP32 graph stays the same to the last bit.

ReLU6 is not homogeneous: a channel that ends in one is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from bbx.calibration.judged import Batches
from bbx.calibration.placement import name_of
from bbx.calibration.sessions import session
from bbx.errors import BbxError
from bbx.exporter.parts import giving
from bbx.exporter.typed_facts import HALF_TYPES, GraphFacts, graph_facts

_HOMOGENEOUS = {
    "Relu",
    "LeakyRelu",
    "Identity",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
}
_MOST = 6
"""Factors stay within 2 to the power of this and of its negative."""


@dataclass(frozen=True, slots=True)
class Equalised:
    """Channels that were rescaled.

    Attributes:
        tensors: that carry the channels, in the graph's order.
        makers: names of the convolutions that were multiplied.
        readers: names of the convolutions that were divided.
        factors: float32 [channels], powers of two.
    """

    tensors: tuple[str, ...]
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    factors: NDArray[np.float32]


@dataclass(slots=True)
class _Stream:
    """Tensors whose channels must have the same factors, and the convolutions at both ends."""

    tensors: list[str] = field(default_factory=list)
    makers: list[int] = field(default_factory=list)
    readers: list[int] = field(default_factory=list)
    closed: bool = True


def equalised(model: ModelProto, batches: Batches) -> tuple[ModelProto, tuple[Equalised, ...]]:
    """Rescale every channel that convolutions hand to convolutions.

    Args:
        model: as `exporter.onnx_graph.prepared` made it, batch norms folded; it is not changed.
        batches: images, for the ranges of the activations.

    Returns:
        A graph with the same outputs to the last bit, but where numbers leave FP32's normal range, and what
        was rescaled; the graph as it was, and nothing, where there is nothing to rescale.

    Raises:
        BbxError: ONNX Runtime cannot run the graph.
    """
    facts = graph_facts(model, HALF_TYPES["fp16"])
    streams = _streams(facts)
    if not streams:
        return model, ()
    ranges = _channel_ranges(model, [name for stream in streams for name in stream.tensors], batches)
    weights = {name: numpy_helper.to_array(facts.initialisers[name]) for name in _changed(streams, facts)}
    done = []
    for stream in streams:
        factors = _factors(stream, facts, weights, ranges)
        if np.all(factors == 1):
            continue
        _rescale(stream, facts, weights, factors)
        makers, readers = (
            tuple(name_of(facts.nodes[i]) for i in ends) for ends in (stream.makers, stream.readers)
        )
        done.append(Equalised(tuple(stream.tensors), makers, readers, factors))
    result = ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return result, tuple(done)


def _streams(facts: GraphFacts) -> list[_Stream]:
    """Streams that nothing but convolutions makes and reads, in the graph's order."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for node in facts.nodes:
        if _passes(node, facts):
            for name in (*node.input, *node.output):
                parent[root(name)] = root(node.output[0])
    streams: dict[str, _Stream] = {}
    for index, node in enumerate(facts.nodes):
        passes, convolves = _passes(node, facts), _convolves(node, facts)
        for name in node.output:
            stream = streams.setdefault(root(name), _Stream())
            stream.tensors.append(name)
            stream.closed &= (passes or convolves) and name not in facts.outputs | facts.captured
            if convolves:
                stream.makers.append(index)
        for position, name in enumerate(node.input):
            stream = streams.setdefault(root(name), _Stream())
            reads = convolves and position == 0
            stream.closed &= (passes or reads) and name not in facts.inputs
            if reads:
                stream.readers.append(index)
    return [s for s in streams.values() if s.closed and s.makers and s.readers]


def _passes(node: NodeProto, facts: GraphFacts) -> bool:
    """Whether a node passes factors of channels on."""
    if node.domain not in ("", "ai.onnx") or any(name in facts.initialisers for name in node.input):
        return False
    if node.op_type == "Add":
        shapes = [facts.infos[name].shape if name in facts.infos else None for name in node.input]
        return shapes[0] is not None and shapes[0] == shapes[1] and len(shapes[0]) > 2
    return node.op_type in _HOMOGENEOUS and len(node.output) == 1


def _convolves(node: NodeProto, facts: GraphFacts) -> bool:
    """Whether a node is a convolution whose weight and bias are its own."""
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
        return False
    return all(
        name in facts.initialisers and len(facts.readers[name]) == 1 and name not in facts.captured
        for name in node.input[1:]
        if name
    )


def _changed(streams: Iterable[_Stream], facts: GraphFacts) -> set[str]:
    ends = {index for stream in streams for index in (*stream.makers, *stream.readers)}
    return {name for index in ends for name in facts.nodes[index].input[1:] if name}


def _channel_ranges(model: ModelProto, names: list[str], batches: Batches) -> dict[str, NDArray[np.float32]]:
    """The largest magnitude of each channel."""
    found: dict[str, NDArray[np.float32]] = {}
    with session(giving(model, names), "equalisation", exact=True, inside=True) as opened:
        for feeds in batches():
            for name, values in zip(names, opened.run(feeds), strict=True):
                axes = (0, *range(2, values.ndim))
                largest = np.maximum(values.max(axis=axes), -values.min(axis=axes))
                found[name] = np.maximum(found[name], largest) if name in found else largest
    if not found:
        raise BbxError("Equalisation needs at least one image.")
    return found


def _factors(
    stream: _Stream,
    facts: GraphFacts,
    weights: Mapping[str, NDArray[np.float32]],
    ranges: Mapping[str, NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Factors that bring the range of a channel and of the weights that read it together."""
    made = np.max([ranges[name] for name in stream.tensors], axis=0)
    read = np.max([_input_ranges(facts.nodes[index], weights) for index in stream.readers], axis=0)
    alive = (made > 0) & (read > 0)
    powers = np.zeros(made.shape, np.int64)
    powers[alive] = np.rint(np.log2(read[alive] / made[alive]) / 2)
    if alive.any():  # only differences between channels matter; most of them stay as they are
        powers[alive] -= int(np.median(powers[alive]))
    factors: NDArray[np.float32] = np.ldexp(np.float32(1), np.clip(powers, -_MOST, _MOST)).astype(np.float32)
    return factors


def _input_ranges(node: NodeProto, weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """The largest weight that reads each input channel, relative to the largest of its output channel."""
    weight = weights[node.input[1]]
    flat = np.abs(weight).reshape(*weight.shape[:2], -1).max(axis=2)
    relative = flat / np.maximum(flat.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    largest: NDArray[np.float32] = relative.reshape(_groups(node), -1, weight.shape[1]).max(axis=1)
    return largest.reshape(-1)


def _rescale(
    stream: _Stream, facts: GraphFacts, weights: dict[str, NDArray[np.float32]], factors: NDArray[np.float32]
) -> None:
    for index in stream.makers:
        for name in facts.nodes[index].input[1:]:
            if name:
                shape = (-1, *[1] * (weights[name].ndim - 1))
                weights[name] = weights[name] * factors.reshape(shape)
    for index in stream.readers:
        node = facts.nodes[index]
        weight = weights[node.input[1]]
        groups = _groups(node)
        divisors = factors.reshape(groups, 1, weight.shape[1]).repeat(weight.shape[0] // groups, axis=1)
        shape = (*weight.shape[:2], *[1] * (weight.ndim - 2))
        weights[node.input[1]] = weight / divisors.reshape(shape)


def _groups(node: NodeProto) -> int:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == "group"), 1)
