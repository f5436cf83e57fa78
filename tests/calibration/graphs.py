"""Small graphs in ONNX's own text form, with weights beside them, and what ONNX Runtime says to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from bbx.calibration.placement import Layer
from bbx.exporter.onnx_options import FLOAT32_MARK
from bbx.runners.ort import DROPS_RELU

Arrays = Mapping[str, NDArray[Any]]


def graph(text: str, weights: Arrays | None = None, *, opset: int = 20) -> ModelProto:
    """A graph from `(inputs) => (outputs) { nodes }`, with `weights` as its initialisers."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {text}')
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(values), name) for name, values in (weights or {}).items()
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def marked(model: ModelProto, node: str, reason: str) -> ModelProto:
    """The graph with a node that wants FP32, as the exporter marks it."""
    found = next(each for each in model.graph.node if each.name == node)
    found.metadata_props.add(key=FLOAT32_MARK, value=reason)
    return model


def run(model: ModelProto, feeds: Arrays) -> list[NDArray[Any]]:
    """The outputs, Q/DQ nodes computed as written."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(DROPS_RELU),
    )
    outputs: list[NDArray[Any]] = session.run(None, dict(feeds))
    return outputs


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> NDArray[np.float32]:
    """Seeded float32 numbers."""
    numbers: NDArray[np.float32] = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return numbers * np.float32(scale)


def weight_of(model: ModelProto, layer: Layer) -> NDArray[Any]:
    """The weight that a layer of a placement reads."""
    tensor = next(each for each in model.graph.initializer if each.name == layer.weight)
    return numpy_helper.to_array(tensor)


def operators(model: ModelProto) -> list[str]:
    """Operator of every node, in order."""
    return [node.op_type for node in model.graph.node]
