"""What the policy knows about a graph: its index, and which operators exist in a 16-bit type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from bbx.exporter.onnx_graph import FLOAT, TensorInfo, captured_names, opset_of, tensor_infos

HalfPrecision = Literal["fp16", "bf16"]


@dataclass(frozen=True, slots=True)
class HalfType:
    """A 16-bit type: its ONNX element type, NumPy type, largest finite and smallest positive values.

    Attributes:
        least_normal: below it, values have fewer digits.
        least: below half of it, values become zero.
    """

    name: str
    elem_type: int
    dtype: np.dtype[np.generic]
    largest: float
    least_normal: float
    least: float
    least_opset: int


HALF_TYPES: dict[str, HalfType] = {
    "fp16": HalfType("fp16", int(TensorProto.FLOAT16), np.dtype(np.float16), 65504.0, 2.0**-14, 2.0**-24, 13),
    # Conv and pooling accept bfloat16 from opset 22 on.
    "bf16": HalfType(
        "bf16",
        int(TensorProto.BFLOAT16),
        np.dtype(ml_dtypes.bfloat16),
        3.3895e38,
        2.0**-126,
        2.0**-133,
        22,
    ),
}

WEIGHT_ERROR = 2.0**-6
"""Relative L2 error of rounding above which a weight does not fit; plain BF16 rounding stays below 2^-9."""


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """A prepared model's main graph, indexed."""

    nodes: tuple[NodeProto, ...]
    opset: int
    infos: Mapping[str, TensorInfo]
    initialisers: Mapping[str, TensorProto]
    producer: Mapping[str, int]
    readers: Mapping[str, tuple[int, ...]]
    inputs: frozenset[str]
    outputs: frozenset[str]
    captured: frozenset[str]
    half: HalfType
    _fits: dict[tuple[str, bool], str | None] = field(default_factory=dict)

    def is_float(self, name: str) -> bool:
        """Whether this is the name of a float32 tensor."""
        info = self.infos.get(name)
        return info is not None and info.elem_type == FLOAT

    def misfit(self, name: str, *, bias: bool) -> str | None:
        """Why an initialiser's values do not fit the smaller type; None when they do.

        A bias is added to larger values, so what it loses by rounding does not matter.
        """
        if (name, bias) not in self._fits:
            values = numpy_helper.to_array(self.initialisers[name])
            self._fits[name, bias] = _misfit(values, self.half, bias=bias)
        return self._fits[name, bias]


def graph_facts(model: ModelProto, half: HalfType) -> GraphFacts:
    """Index the main graph of a prepared model."""
    graph = model.graph
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in set(node.input) - {""}:
            readers.setdefault(name, []).append(index)
    return GraphFacts(
        nodes=tuple(graph.node),
        opset=opset_of(model),
        infos=tensor_infos(model),
        initialisers={tensor.name: tensor for tensor in graph.initializer},
        producer={name: index for index, node in enumerate(graph.node) for name in node.output if name},
        readers={name: tuple(indices) for name, indices in readers.items()},
        inputs=frozenset(value.name for value in graph.input),
        outputs=frozenset(value.name for value in graph.output),
        captured=frozenset(captured_names(graph)),
        half=half,
    )


def _misfit(values: NDArray[np.generic], half: HalfType, *, bias: bool) -> str | None:
    exact = values.astype(np.float32, copy=False).ravel()
    with np.errstate(over="ignore"):
        rounded = exact.astype(half.dtype).astype(np.float32)
    finite = np.isfinite(exact)
    if not np.isfinite(rounded[finite]).all():
        return f"a constant of {np.abs(exact[finite]).max():.3g} overflows {half.name}"
    # Scaled first: the squares of tiny weights would underflow, those of large ones overflow.
    largest = float(np.abs(exact[finite]).max(initial=0.0)) or 1.0
    error = np.linalg.norm((rounded[finite] - exact[finite]) / largest)
    scale = np.linalg.norm(exact[finite] / largest)
    if not bias and error > WEIGHT_ERROR * scale:
        return f"rounding its constant to {half.name} changes it by {error / scale:.0%}"
    return None


def half_inputs(node: NodeProto, facts: GraphFacts) -> tuple[bool, ...]:
    """For each input, whether it is a float32 tensor that the operator also takes in the smaller type."""
    return _half_formals(node, facts, outputs=False)


def half_outputs(node: NodeProto, facts: GraphFacts) -> tuple[bool, ...]:
    """For each output, whether it is a float32 tensor that the operator also gives in the smaller type."""
    return _half_formals(node, facts, outputs=True)


def _half_formals(node: NodeProto, facts: GraphFacts, *, outputs: bool) -> tuple[bool, ...]:
    names = node.output if outputs else node.input
    try:
        schema = onnx.defs.get_schema(node.op_type, facts.opset, node.domain)
    except onnx.defs.SchemaError:
        return (False,) * len(names)
    formals = schema.outputs if outputs else schema.inputs
    wanted = "tensor(bfloat16)" if facts.half.name == "bf16" else "tensor(float16)"
    return tuple(
        facts.is_float(name) and wanted in formals[min(index, len(formals) - 1)].types
        for index, name in enumerate(names)
    )
