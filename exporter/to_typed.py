"""FP16 and BF16 as a property of the graph: weights stored in that type, casts only at borders.

The graph's inputs and outputs stay FP32 unless asked. What `typed_policy` keeps in FP32 is listed with its
reason. A tensor exists in the type its producer gives it and is cast at most once, where the first reader
of the other type stands; so two casts never follow each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from bbx.exporter import onnx_graph
from bbx.exporter.onnx_graph import FLOAT, all_names, unique_name
from bbx.exporter.typed_facts import (
    HALF_TYPES,
    GraphFacts,
    HalfPrecision,
    HalfType,
    graph_facts,
    half_inputs,
    half_outputs,
)
from bbx.exporter.typed_policy import KeptNode, TensorRange, keep_reasons
from bbx.exporter.typed_scales import fit_scales
from bbx.exporter.typed_structure import TYPE_BLIND


@dataclass(frozen=True, slots=True)
class TypedGraph:
    """A typed ONNX graph.

    Attributes:
        model: opset at least 13 (FP16; 19 with Q/DQ nodes) or 22 (BF16); passes the full checker.
        kept: nodes that work on floating point and stay in FP32, in the graph's order.
        converted: number of nodes that work in the smaller type.
    """

    model: ModelProto
    kept: tuple[KeptNode, ...]
    converted: int


def typed_from_onnx(
    model: ModelProto,
    precision: HalfPrecision,
    ranges: Mapping[str, TensorRange],
    *,
    half_io: bool = False,
) -> TypedGraph:
    """Rewrite a graph so that it computes in FP16 or BF16.

    Integers and what happens inside subgraphs (If, Loop, Scan) are left alone; quantised weights too, but for
    channels whose scale the type cannot hold (`typed_scales`).

    Args:
        model: any valid model, its weights loaded; it is not changed.
        ranges: from `bbx.calibration.ranges.activation_ranges`; a tensor it does not name is taken to fit.
        half_io: give the FP32 inputs and outputs the smaller type too.

    Raises:
        ExportError: the graph cannot be raised to the opset that the type needs, or the result is not valid.
    """
    half = HALF_TYPES[precision]
    source = onnx_graph.prepared(model, opset=_least_opset(model, half))
    del model  # whose weights are as large as those of `source`, and the caller may have given it away
    fit_scales(source, half)
    facts = graph_facts(source, half)
    reasons = keep_reasons(facts, ranges, half_io=half_io)
    typed = _Rewriter(source, facts, reasons, half_io=half_io).rewrite()
    onnx_graph.infer_and_check(typed.model)
    return typed


def _least_opset(model: ModelProto, half: HalfType) -> int:
    quantised = any(node.op_type == "DequantizeLinear" for node in model.graph.node)
    return max(half.least_opset, 19 if quantised else 0)  # scales may be 16 bit from opset 19 on


@dataclass(slots=True)
class _Rewriter:
    """One pass over the nodes in order; `_name` says what a tensor is called in each of the two types."""

    source: ModelProto
    facts: GraphFacts
    reasons: Mapping[int, str]
    half_io: bool
    _nodes: list[NodeProto] = field(default_factory=list)
    _name: dict[tuple[str, int], str] = field(default_factory=dict)
    _native: dict[str, int] = field(default_factory=dict)
    _alias: dict[str, str] = field(default_factory=dict)
    _stored: dict[str, tuple[str, int]] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)
    _converted: int = 0

    def rewrite(self) -> TypedGraph:
        facts = self.facts
        self._taken = all_names(facts.nodes) | set(facts.initialisers) | facts.inputs
        for name in facts.inputs:
            if facts.is_float(name):
                self._native[name] = self._io_type(name)
                self._name[name, self._native[name]] = name
        self._keep_full_weights()
        for index, node in enumerate(facts.nodes):
            self._place(index, node)
        for name in facts.outputs - self._native.keys():
            if facts.is_float(name):
                self._read(name, FLOAT)
        kept = tuple(
            KeptNode(facts.nodes[i].name or facts.nodes[i].output[0], facts.nodes[i].op_type, reason)
            for i, reason in self.reasons.items()
        )
        return TypedGraph(self._model(), kept, self._converted)

    def _io_type(self, name: str) -> int:
        return self.facts.half.elem_type if self.half_io and name not in self.facts.captured else FLOAT

    def _keep_full_weights(self) -> None:
        """Weights that anything reads in FP32 keep their name in FP32."""
        pinned = self.facts.captured | self.facts.outputs
        for index, node in enumerate(self.facts.nodes):
            types = self._input_types(index, node)
            pinned |= {name for name, elem in zip(node.input, types, strict=True) if elem == FLOAT}
        for name, tensor in self.facts.initialisers.items():
            if tensor.data_type != FLOAT or name in pinned:
                self._stored[name] = name, tensor.data_type
                self._name[name, tensor.data_type] = name

    def _input_types(self, index: int, node: NodeProto) -> list[int | None]:
        """The type in which a node reads each float32 input; None where that does not matter."""
        half = self.facts.half.elem_type
        blind = node.op_type in TYPE_BLIND
        castable = (False,) * len(node.input) if index in self.reasons else half_inputs(node, self.facts)
        return [
            None
            if not self.facts.is_float(name) or (blind and name not in self.facts.initialisers)
            else half
            if down
            else FLOAT
            for name, down in zip(node.input, castable, strict=True)
        ]

    def _place(self, index: int, node: NodeProto) -> None:
        result = NodeProto()
        result.CopyFrom(node)
        if node.op_type == "Cast" and self._is_alias(index, node):
            return
        types = self._input_types(index, node)
        for position, (name, elem) in enumerate(zip(node.input, types, strict=True)):
            if self.facts.is_float(name):
                wanted = self._native.get(name, FLOAT) if elem is None else elem
                result.input[position] = self._read(name, wanted)
            elif name in self._alias:
                result.input[position] = self._alias[name]
        down = (False,) * len(node.output)
        if index not in self.reasons:
            down = self._half_results(result, any(elem == self.facts.half.elem_type for elem in types))
        self._converted += any(down) or self.facts.half.elem_type in types
        self._nodes.append(result)
        for position, (name, is_half) in enumerate(zip(node.output, down, strict=True)):
            if self.facts.is_float(name):
                elem = self.facts.half.elem_type if is_half else FLOAT
                result.output[position] = self._written(name, elem)

    def _half_results(self, node: NodeProto, reads_half: bool) -> tuple[bool, ...]:
        """Which outputs the node gives in the smaller type; sets the attributes that say so."""
        if reads_half:
            return half_outputs(node, self.facts)
        is_float = self.facts.is_float(node.output[0])
        if node.op_type == "Cast" and is_float:
            node.attribute[0].i = self.facts.half.elem_type
            return (True,)
        if node.op_type == "ConstantOfShape" and is_float:
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            filled = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
            tensor = numpy_helper.from_array(filled.astype(self.facts.half.dtype))
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", tensor))
            return (True,)
        return (False,) * len(node.output)

    def _is_alias(self, index: int, node: NodeProto) -> bool:
        """Whether a Cast of the source graph only names what exists already; then it is left out."""
        source, result = node.input[0], node.output[0]
        info = self.facts.infos.get(source)
        types = (info.elem_type if info else None, node.attribute[0].i)
        half = self.facts.half.elem_type
        pinned = result in self.facts.outputs | self.facts.captured
        if pinned or index in self.reasons or source in self.facts.initialisers:
            return False
        if types == (half, FLOAT):  # widening loses nothing, so the original serves readers of its type
            self._native[result] = half
            self._name[result, half] = self._alias.get(source, source)
        elif types == (FLOAT, FLOAT):
            self._native[result] = self._native[source]
            self._name[result, self._native[source]] = self._read(source, self._native[source])
        elif types == (FLOAT, half):
            self._alias[result] = self._read(source, half)
        else:
            return False
        return True

    def _read(self, name: str, elem: int) -> str:
        """The name of a float32 tensor of the source in type `elem`; made when it is first asked for."""
        known = self._name.get((name, elem))
        if known is not None:
            return known
        if name in self.facts.initialisers:
            self._name[name, elem] = self._store_half(name)
        else:
            native = self._name[name, self._native[name]]
            self._name[name, elem] = unique_name(f"{name}_{self._suffix(elem)}", self._taken)
            self._cast(native, self._name[name, elem], elem)
        return self._name[name, elem]

    def _store_half(self, name: str) -> str:
        """Have an initialiser in the smaller type; it has its old name unless that is kept in FP32."""
        half = self.facts.half
        stored = name
        if (name, FLOAT) in self._name:
            stored = unique_name(f"{name}_{half.name}", self._taken)
        self._stored[stored] = name, half.elem_type
        return stored

    def _write_weights(self, used: Set[str], graph: GraphProto) -> None:
        """Write the initialisers that are used, one by one, so that few of them are there twice."""
        for stored, (name, elem) in self._stored.items():
            if stored not in used:
                continue
            tensor = self.facts.initialisers[name]
            if tensor.data_type != elem:
                values = numpy_helper.to_array(tensor).astype(self.facts.half.dtype)
                tensor = numpy_helper.from_array(values, stored)
            graph.initializer.add().CopyFrom(tensor)

    def _written(self, name: str, elem: int) -> str:
        """The name under which a node writes a tensor; casts it to the border's type where that differs."""
        self._native[name] = elem
        wanted = elem
        if name in self.facts.captured:
            wanted = FLOAT
        elif name in self.facts.outputs:
            wanted = self._io_type(name)
        self._name[name, wanted] = name
        if wanted != elem:
            self._name[name, elem] = unique_name(f"{name}_{self._suffix(elem)}", self._taken)
            self._cast(self._name[name, elem], name, wanted)
        return self._name[name, elem]

    def _suffix(self, elem: int) -> str:
        return "fp32" if elem == FLOAT else self.facts.half.name

    def _cast(self, source: str, result: str, elem: int) -> None:
        name = unique_name(f"{result}/Cast", self._taken)
        self._nodes.append(helper.make_node("Cast", [source], [result], name=name, to=elem))

    def _model(self) -> ModelProto:
        model = onnx_graph.emptied(self.source)
        graph = model.graph
        used = (
            {name for node in self._nodes for name in node.input} | self.facts.captured | self.facts.outputs
        )
        graph.node.extend(self._nodes)
        self._write_weights(used, graph)
        for value in (*graph.input, *graph.output):
            if self.facts.is_float(value.name):
                value.type.tensor_type.elem_type = self._io_type(value.name)
        model.producer_name, model.producer_version = "bbx", ""
        model.ir_version = max(model.ir_version, 8)
        return model
