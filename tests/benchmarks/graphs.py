"""A small graph as somebody else's ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_graph(path: Path, *, side: int = 32, channels: int = 16) -> Path:
    """Two convolutions and a mean: `images` [batch, 3, side, side] to `logits` [batch, 5]."""
    draw = np.random.default_rng(0).standard_normal
    weights = {"first": (channels, 3, 3, 3), "second": (5, channels, 3, 3)}
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["maps"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("Conv", ["active", "second"], ["scores"], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["scores"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(draw(shape).astype(np.float32), name) for name, shape in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
