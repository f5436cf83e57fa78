"""The range of every activation on real images, in one streaming pass of ONNX Runtime.

The reductions are part of the graph that runs, so a handful of numbers leaves it for each tensor and
batch; no activation is written anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bbx import artifact
from bbx.calibration.sessions import session
from bbx.errors import BbxError
from bbx.exporter import onnx_graph
from bbx.exporter.typed_policy import TensorRange, stays_float32
from bbx.process import progress

_STATISTICS = "bbx.ranges"
_SMALLEST_NORMAL, _LARGEST_ZERO = 2.0**-14, 2.0**-25
"""Of FP16: below the first, accuracy is lost; up to the second, everything rounds to zero."""
_CONSTANTS = {
    "zero": np.float32(0),
    "one": np.float32(1),
    "per_normal": np.float32(1 / _SMALLEST_NORMAL),
    "per_zero": np.float32(1 / _LARGEST_ZERO),
}
_COLUMNS = ("minimum", "maximum", "nonzero", "normal", "survives", "finite")
"""What is measured of each tensor: extremes; how many values are not zero, are at least FP16's smallest
normal, do not round to zero in FP16; and nought, or NaN when a value is not finite."""
_SAME_VALUES = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity"}
"""Operators whose result has the range of their input, so that it need not be measured again."""


def activation_ranges(
    model_path: Path, batches: Iterable[Mapping[str, NDArray[np.generic]]]
) -> dict[str, TensorRange]:
    """Scan an ONNX graph on real inputs.

    Args:
        model_path: any ONNX graph that ONNX Runtime can run.
        batches: feeds, one mapping a run; read one at a time.

    Returns:
        The range of each float32 input and activation of the main graph (local functions inlined), by name,
        except what nodes give that are marked to stay in FP32.
        Shares are averages over the batches, weighted by the nonzero values seen in each.

    Raises:
        ArtifactError: the graph cannot be read, or its external data is not safe to open.
        BbxError: there is no batch, or ONNX Runtime cannot run the graph on one.
    """
    artifact.check_external_data(model_path)
    model = onnx_graph.prepared(onnx.load(str(model_path)), opset=13)
    measured_as = _instrument(model)
    rows: NDArray[np.float64] | None = None
    with session(model, "a range scan", inside=True, spent=True) as opened:
        del model
        for count, feeds in enumerate(batches, start=1):
            progress("scan ranges", None, f"batch {count}")
            fresh = np.asarray(opened.run(feeds), dtype=np.float64).reshape(-1, len(_COLUMNS))
            rows = fresh if rows is None else _merged(rows, fresh)
    if rows is None:
        raise BbxError("A range scan needs at least one batch of images.")
    measured = zip(dict.fromkeys(measured_as.values()), map(_range, rows), strict=True)
    ranges = dict(measured)
    return {name: ranges[source] for name, source in measured_as.items()}


def _instrument(model: ModelProto) -> dict[str, str]:
    """Make the statistics the graph's only outputs; returns for each tensor the one it was measured as."""
    graph = model.graph
    infos = onnx_graph.tensor_infos(model)
    measured_as: dict[str, str] = {}
    nodes: list[NodeProto] = []

    def measure(names: Iterable[str]) -> None:
        for name in names:
            if name in infos and infos[name].elem_type == TensorProto.FLOAT:
                measured_as[name] = name
                nodes.extend(_statistics(name))

    measure(value.name for value in graph.input)
    for node in graph.node:
        nodes.append(node)
        if stays_float32(node):  # so nobody asks; a detector's tables of overlaps would fill the memory
            continue
        if node.op_type in _SAME_VALUES and node.input[0] in measured_as:
            measured_as[node.output[0]] = measured_as[node.input[0]]
        else:
            measure(node.output)
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    for what, value in _CONSTANTS.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), _local("", what)))
    for name in dict.fromkeys(measured_as.values()):
        for column in _COLUMNS:
            graph.output.append(helper.make_tensor_value_info(_local(name, column), TensorProto.FLOAT, []))
    return measured_as


def _local(name: str, what: str) -> str:
    return f"{_STATISTICS}/{what}/{name}"


def _statistics(name: str) -> list[NodeProto]:
    """Nodes that reduce one tensor to the numbers named in `_COLUMNS`.

    Counting is arithmetic (clip to 0..1, round, sum), since ONNX Runtime's comparisons and selections take
    ten times as long on a CPU.
    """

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(operator, inputs, [_local(name, output)], **attributes)

    def here(what: str) -> str:
        return _local(name, what)

    def count(of: str, rounding: str, what: str) -> list[NodeProto]:
        return [
            node("Clip", [of, _local("", "zero"), _local("", "one")], f"clipped_{what}"),
            node(rounding, [here(f"clipped_{what}")], f"is_{what}"),
            node("ReduceSum", [here(f"is_{what}")], what, keepdims=0),
        ]

    return [
        node("ReduceMin", [name], "minimum", keepdims=0),
        node("ReduceMax", [name], "maximum", keepdims=0),
        node("Mul", [name, _local("", "zero")], "noughts"),
        node("ReduceSum", [here("noughts")], "finite", keepdims=0),
        node("Abs", [name], "magnitude"),
        *count(here("magnitude"), "Ceil", "nonzero"),
        node("Mul", [here("magnitude"), _local("", "per_normal")], "normals"),
        *count(here("normals"), "Floor", "normal"),
        node("Mul", [here("magnitude"), _local("", "per_zero")], "survivors"),
        *count(here("survivors"), "Floor", "survives"),
    ]


def _merged(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    merged = one + other
    merged[:, 0] = np.minimum(one[:, 0], other[:, 0])
    merged[:, 1] = np.maximum(one[:, 1], other[:, 1])
    return merged


def _range(row: NDArray[np.float64]) -> TensorRange:
    minimum, maximum, nonzero, normal, survives, nought = (float(value) for value in row)
    finite = nought == 0
    if not finite:
        minimum, maximum = -math.inf, math.inf
    counted = max(nonzero, 1.0)
    return TensorRange(
        minimum=minimum,
        maximum=maximum,
        absmax=max(-minimum, maximum),
        subnormal_share=(nonzero - normal) / counted if finite else 0.0,
        underflow_share=(nonzero - survives) / counted if finite else 0.0,
        finite=finite,
    )
