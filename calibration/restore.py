"""Putting chosen nodes of a graph back to FP32, and leaving all others as they are.

A node that is put back reads the float tensor that stands before a Q/DQ pair, reads its weights in FP32, and
writes FP32. No tensor becomes an output for that, so whatever compiles the graph fuses the other nodes as
before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bbx.calibration.low_precision import HALF, LowGraph
from bbx.exporter import onnx_graph
from bbx.exporter.onnx_graph import FLOAT, all_names, unique_name

Weights = Mapping[tuple[int, int], NDArray[np.float32]]
"""Float constants for inputs of nodes, by index of the node and position of the input."""


def restored(graph: LowGraph, chosen: Collection[int], weights: Weights) -> ModelProto:
    """A graph like this one in which the chosen nodes compute in FP32.

    Args:
        chosen: indices of low nodes.
        weights: constants that the chosen nodes read instead of the graph's own.

    Raises:
        ExportError: the result is not a valid graph.
    """
    return _Restorer(graph, frozenset(chosen), weights).restore()


class _Restorer:
    """One pass over the nodes; `_full` says where a 16-bit tensor is to be had in FP32."""

    def __init__(self, graph: LowGraph, chosen: frozenset[int], weights: Weights) -> None:
        self._graph = graph
        self._chosen = chosen
        self._weights = weights
        inputs = {value.name for value in graph.model.graph.input}
        self._taken = all_names(graph.nodes) | set(graph.constants) | inputs
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._full: dict[str, str] = {}
        self._stored: dict[str, str] = {}

    def restore(self) -> ModelProto:
        for index, node in enumerate(self._graph.nodes):
            if index in self._chosen:
                self._put_back(index, node)
            elif not self._is_widening(node):
                self._nodes.append(node)
        result = self._model()
        onnx_graph.infer_and_check(result)
        return result

    def _put_back(self, index: int, node: NodeProto) -> None:
        if node.op_type == "DequantizeLinear":  # one that stands for a graph's output
            self._nodes.append(helper.make_node("Identity", [self._read(node.output[0])], [node.output[0]]))
            return
        result = NodeProto()
        result.CopyFrom(node)
        for position, name in enumerate(node.input):
            if self._graph.types.get(name) in {FLOAT, *HALF}:
                result.input[position] = self._constant(index, position, name) or self._read(name)
        narrowed = []
        for position, name in enumerate(node.output):
            elem = self._graph.types.get(name)
            if elem in HALF:
                full = self._full[name] = unique_name(f"{name}_fp32", self._taken)
                result.output[position] = full
                narrowed.append(self._cast(full, name, int(elem or 0)))
        self._nodes += [result, *narrowed]

    def _is_widening(self, node: NodeProto) -> bool:
        """Whether a node casts to FP32 what exists in FP32 now; its readers then read that."""
        if node.op_type != "Cast" or node.input[0] not in self._full:
            return False
        if self._graph.types.get(node.output[0]) != FLOAT:
            return False
        if node.output[0] in self._graph.pinned:
            self._nodes.append(helper.make_node("Identity", [self._full[node.input[0]]], [node.output[0]]))
        else:
            self._full[node.output[0]] = self._full[node.input[0]]
        return True

    def _read(self, name: str) -> str:
        """The name of a tensor in FP32, and before it was quantised; cast when it is first asked for."""
        pair = self._graph.quantised_source(name)
        narrowing = self._graph.producer_of(name, "Cast")
        if pair is not None:
            return self._read(pair[0].input[0])
        if name in self._full:
            return self._full[name]
        if narrowing is not None and self._graph.types.get(narrowing.input[0]) == FLOAT:
            return self._read(narrowing.input[0])
        if self._graph.types.get(name) not in HALF:
            return name
        self._full[name] = unique_name(f"{name}_fp32", self._taken)
        self._nodes.append(self._cast(name, self._full[name], FLOAT))
        return self._full[name]

    def _cast(self, source: str, result: str, elem: int) -> NodeProto:
        name = unique_name(f"{result}/Cast", self._taken)
        return helper.make_node("Cast", [source], [result], name=name, to=elem)

    def _constant(self, index: int, position: int, name: str) -> str | None:
        """The name of an FP32 initialiser for a constant input; None where the input is no constant."""
        own = self._graph.constant(name)
        if own is None:
            return None
        values = self._weights.get((index, position), own)
        is_own = values is own or np.array_equal(values, own)
        if is_own and name in self._graph.constants and self._graph.types.get(name) == FLOAT:
            return name
        key = name if is_own else f"{name}@{index}"
        if key not in self._stored:
            self._stored[key] = unique_name(f"{name}_fp32", self._taken)
            self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), self._stored[key]))
        return self._stored[key]

    def _model(self) -> ModelProto:
        source = self._graph.model
        model = ModelProto()
        model.ir_version, model.producer_name = source.ir_version, "bbx"
        model.opset_import.extend(source.opset_import)
        model.metadata_props.extend(source.metadata_props)
        graph = model.graph
        graph.name = source.graph.name or "graph"
        graph.input.extend(source.graph.input)
        graph.output.extend(source.graph.output)
        graph.node.extend(self._renamed(_alive(self._nodes, self._graph.pinned, self._reading)))
        read = {name for node in graph.node for name in node.input} | self._graph.pinned
        everything = (*source.graph.initializer, *self._constants)
        graph.initializer.extend(tensor for tensor in everything if tensor.name in read)
        return model

    def _reading(self, name: str) -> str:
        """What a reader of this tensor reads now: another name where a cast to FP32 was left out."""
        return self._full[name] if name in self._full and self._graph.types.get(name) == FLOAT else name

    def _renamed(self, nodes: list[NodeProto]) -> list[NodeProto]:
        copies = []
        for node in nodes:
            copies.append(NodeProto())
            copies[-1].CopyFrom(node)
            for position, name in enumerate(node.input):
                copies[-1].input[position] = self._reading(name)
        return copies


def _alive(nodes: list[NodeProto], pinned: Collection[str], reading: Callable[[str], str]) -> list[NodeProto]:
    """The nodes whose results something reads."""
    needed = set(pinned)
    kept = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(map(reading, node.input))
    return kept[::-1]
