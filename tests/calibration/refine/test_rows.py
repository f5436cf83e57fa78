"""Rows times matrices are what ONNX Runtime answers, for every way in which a layer can multiply."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bbx.calibration.refine.rows import product_of, stored
from bbx.calibration.sessions import session

RANDOM = np.random.default_rng(7)


def graph_of(operator: str, x: Any, weight: Any, **attributes: Any) -> ModelProto:
    node = helper.make_node(operator, ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def values(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


LAYERS = {
    "conv": ("Conv", (2, 4, 7, 6), (5, 4, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    "dilated": ("Conv", (2, 4, 9, 9), (5, 4, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "pointwise": ("Conv", (3, 6, 4, 5), (8, 6, 1, 1), {}),
    "depthwise": ("Conv", (2, 6, 8, 8), (6, 1, 5, 5), {"group": 6, "strides": [2, 2], "pads": [2, 2, 2, 2]}),
    "grouped": ("Conv", (2, 6, 5, 5), (9, 2, 3, 3), {"group": 3}),
    "same upper": ("Conv", (2, 3, 7, 8), (4, 3, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same lower": ("Conv", (2, 3, 7, 8), (4, 3, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "along a line": ("Conv", (2, 3, 16), (4, 3, 5), {"strides": [3]}),
    "gemm": ("Gemm", (4, 6), (6, 5), {}),
    "gemm of rows": ("Gemm", (4, 6), (5, 6), {"transB": 1}),
    "matmul": ("MatMul", (2, 3, 6), (6, 5), {}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_matrices_are_the_outputs(name: str) -> None:
    operator, given, shape, attributes = LAYERS[name]
    x, weight = values(*given), values(*shape)
    model = graph_of(operator, x, weight, **attributes)
    with session(model, "a test") as opened:
        wanted = opened.run({"x": x})[0]
    product = product_of(model.graph.node[0], shape, given[2:])
    assert product is not None
    answers = product.rows(x, None) @ product.matrices(weight).swapaxes(1, 2)  # [groups, rows, outputs]
    outputs = np.moveaxis(answers, 0, 1).reshape(answers.shape[1], -1)
    channel = 1 if operator == "Conv" else wanted.ndim - 1
    np.testing.assert_allclose(outputs, np.moveaxis(wanted, channel, -1).reshape(outputs.shape), atol=1e-4)
    if operator == "Conv":
        assert product.positions(given) == np.prod(wanted.shape[2:])
    matrices = product.matrices(weight)
    assert matrices.shape[2] == product.inputs
    np.testing.assert_array_equal(product.weight(matrices), weight)


def test_a_share_of_the_positions_gives_their_rows() -> None:
    x, weight = values(2, 4, 6, 6), values(5, 4, 3, 3)
    product = product_of(graph_of("Conv", x, weight).graph.node[0], weight.shape, (6, 6))
    assert product is not None
    everything = product.rows(x, None)[0].reshape(2, 16, -1)
    share = np.array([[3, 0], [15, 7]])
    taken = product.rows(x, share)[0].reshape(2, 2, -1)
    np.testing.assert_array_equal(taken, np.take_along_axis(everything, share[:, :, None], axis=1))


def test_a_share_of_the_rows_of_a_product() -> None:
    x, weight = values(2, 3, 4, 6), values(6, 5)
    product = product_of(graph_of("MatMul", x, weight).graph.node[0], weight.shape, ())
    assert product is not None
    assert product.positions(x.shape) == 12
    taken = product.rows(x, np.array([[11, 2], [0, 5]]))[0]
    np.testing.assert_array_equal(taken, x.reshape(24, 6)[[11, 2, 12, 17]])


@pytest.mark.parametrize(
    ("operator", "shape", "attributes"),
    [
        ("ConvTranspose", (3, 4, 2, 2), {}),
        ("Gemm", (6, 5), {"transA": 1}),
        ("Gemm", (6, 5), {"alpha": 0.5}),
        ("MatMul", (2, 6, 5), {}),
        ("Conv", (4, 3, 3, 3), {"auto_pad": "SAME_UPPER"}),
    ],
)
def test_what_is_no_product_of_this_kind_is_left_alone(
    operator: str, shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    node = helper.make_node(operator, ["x", "w"], ["y"], **attributes)
    assert product_of(node, shape, (None, None)) is None


@pytest.mark.parametrize(
    ("kind", "elem_type"), [("int8", TensorProto.INT8), ("fp8", TensorProto.FLOAT8E4M3FN)]
)
def test_stored_values_are_those_of_the_runtime(kind: Any, elem_type: int) -> None:
    x = (values(4, 500) * 40).astype(np.float32)
    scale = 0.37
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.float32(scale), "scale"),
            helper.make_tensor("zero", elem_type, [], [0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    with session(model, "a test", exact=True) as opened:
        np.testing.assert_array_equal(stored(x, scale, kind), opened.run({"x": x})[0])
