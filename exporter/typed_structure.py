"""Structures in a graph that decide where FP32 stays: shape arithmetic, decomposed norms, islands."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from bbx.exporter.typed_facts import GraphFacts

_COMPUTE = {
    "Conv",
    "ConvTranspose",
    "MatMul",
    "Gemm",
    "Einsum",
    "Attention",
    "DeformConv",
    "LSTM",
    "GRU",
    "RNN",
}
TYPE_BLIND = {"Cast", "Shape", "Size"}
"""Operators that read a tensor of any type and whose result does not have it."""


def extent_of(node: NodeProto, facts: GraphFacts) -> int | None:
    """How many elements one result of a reduction or of an average pool is made of."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "AveragePool":
        return int(np.prod(attributes["kernel_shape"]))
    info = facts.infos.get(node.input[0])
    if info is None or info.shape is None:
        return None
    axes = _axes(node, attributes, facts, len(info.shape))
    sizes = [info.shape[axis] for axis in axes] if axes is not None else [None]
    known = [size for size in sizes if size is not None]
    return int(np.prod(known)) if len(known) == len(sizes) else None


def _axes(
    node: NodeProto, attributes: Mapping[str, object], facts: GraphFacts, rank: int
) -> list[int] | None:
    if node.op_type == "GlobalAveragePool":
        return list(range(2, rank))
    axes = attributes.get("axes")
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in facts.initialisers:
            return None
        axes = numpy_helper.to_array(facts.initialisers[node.input[1]]).tolist()
    if not axes:
        return list(range(rank))
    return [int(axis) for axis in axes] if isinstance(axes, (list, tuple)) else None


def shape_arithmetic(facts: GraphFacts) -> set[int]:
    """Nodes that compute vectors or scalars from nothing but shapes and constants."""
    derived: set[str] = set()
    found: set[int] = set()
    for index, node in enumerate(facts.nodes):
        variable = [name for name in node.input if name and name not in facts.initialisers]
        infos = [facts.infos.get(name) for name in node.output]
        is_vector = all(
            info is not None and info.shape is not None and len(info.shape) <= 1 for info in infos
        )
        if node.op_type in ("Shape", "Size") or (is_vector and variable and derived.issuperset(variable)):
            found.add(index)
            derived.update(node.output)
    return found


def decomposed_norms(facts: GraphFacts) -> set[int]:
    """Nodes of normalisations that an exporter wrote as mean, difference, square, mean, root and quotient."""
    found: set[int] = set()
    for index, node in enumerate(facts.nodes):
        if node.op_type != "Sqrt":
            continue
        chain = _upstream(facts, index, {"Add", "ReduceMean", "Pow", "Mul", "Sub"}, depth=5)
        if any(facts.nodes[member].op_type == "ReduceMean" for member in chain):
            ends = {
                reader
                for reader in facts.readers.get(node.output[0], ())
                if facts.nodes[reader].op_type in ("Div", "Reciprocal")
            }
            found |= chain | ends | {index}
    return found


def _upstream(facts: GraphFacts, start: int, operators: set[str], *, depth: int) -> set[int]:
    found: set[int] = set()
    frontier = {start}
    for _ in range(depth):
        frontier = {
            facts.producer[name]
            for index in frontier
            for name in facts.nodes[index].input
            if name in facts.producer and facts.nodes[facts.producer[name]].op_type in operators
        } - found
        found |= frontier
    return found


def between(
    facts: GraphFacts, floating: list[int], kept: Mapping[int, str], *, half_io: bool
) -> dict[int, str]:
    """Light nodes with FP32 on all sides: a cast each way would cost time and accuracy and buy nothing."""
    light = {i for i in floating if i not in kept and facts.nodes[i].op_type not in _COMPUTE}
    found: dict[int, str] = {}
    while light:
        region, around = _region(facts, light.pop(), light)
        light -= region
        reads = {name for index in region for name in facts.nodes[index].input}
        writes = {name for index in region for name in facts.nodes[index].output}
        at_border = bool(reads & facts.inputs or writes & facts.outputs)
        full = [index for index in around if index in kept]
        blind = [index for index in around if facts.nodes[index].op_type in TYPE_BLIND]
        if full and len(full) + len(blind) == len(around) and not (half_io and at_border):
            found |= dict.fromkeys(region, "between operations that stay in fp32")
    return found


def _region(facts: GraphFacts, start: int, light: set[int]) -> tuple[set[int], set[int]]:
    """The connected light nodes around `start`, and the other nodes that touch them through float tensors."""
    region, frontier, around = {start}, [start], set[int]()
    while frontier:
        node = facts.nodes[frontier.pop()]
        reads = [name for name in node.input if facts.is_float(name)]
        writes = [name for name in node.output if facts.is_float(name)]
        neighbours = {facts.producer[name] for name in reads if name in facts.producer}
        neighbours |= {reader for name in writes for reader in facts.readers.get(name, ())}
        grown = (neighbours & light) - region
        region |= grown
        frontier += grown
        around |= neighbours
    return region, around - region
