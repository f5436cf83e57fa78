"""A bias moves by what is asked, wherever a layer keeps it, and nothing else moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bbx.calibration.placement import place
from bbx.calibration.refine.biases import move_bias
from bbx.calibration.sessions import session

STEP = np.array([1.0, -2.0, 0.5])
W, B = np.arange(12, dtype=np.float32).reshape(4, 3) / 7, np.array([3, 4, 5], np.float32)


def graph_of(
    nodes: list[Any], tensors: dict[str, Any], shape: list[int], *, outputs: tuple[str, ...] = ("y",)
) -> Any:
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(operator: str, *names: str, **attributes: Any) -> Any:
    return helper.make_node(operator, list(names[:-1]), [names[-1]], name=f"make_{names[-1]}", **attributes)


C = np.arange(6, dtype=np.float32).reshape(2, 3)
CONV = W.T.reshape(3, 4, 1, 1)
PLACES = {
    "convolution": ([node("Conv", "x", "w", "b", "y")], {"w": CONV, "b": B}, [2, 4, 3, 3]),
    "convolution without a bias": ([node("Conv", "x", "w", "y")], {"w": CONV}, [2, 4, 3, 3]),
    "gemm": ([node("Gemm", "x", "w", "b", "y")], {"w": W, "b": B}, [2, 4]),
    "gemm with a row and a factor": (
        [node("Gemm", "x", "w", "b", "y", beta=0.5)],
        {"w": W, "b": B[None]},
        [2, 4],
    ),
    "gemm without a bias": ([node("Gemm", "x", "w", "y")], {"w": W}, [2, 4]),
    "product and sum": (
        [node("MatMul", "x", "w", "p"), node("Add", "b", "p", "y")],
        {"w": W, "b": B},
        [2, 5, 4],
    ),
}
NO_PLACE = {
    "a product alone": ([node("MatMul", "x", "w", "y")], {"w": W}, [2, 4], ("y",)),
    "a product that is given out": (
        [node("MatMul", "x", "w", "p"), node("Add", "p", "b", "y")],
        {"w": W, "b": B},
        [2, 4],
        ("y", "p"),
    ),
    "a product read twice": (
        [node("MatMul", "x", "w", "p"), node("Add", "p", "b", "q"), node("Add", "p", "q", "y")],
        {"w": W, "b": B},
        [2, 4],
        ("y",),
    ),
    "a matrix and no bias": ([node("Gemm", "x", "w", "c", "y")], {"w": W, "c": C}, [2, 4], ("y",)),
    "a bias that is computed": (
        [node("Abs", "b", "c"), node("Gemm", "x", "w", "c", "y")],
        {"w": W, "b": B},
        [2, 4],
        ("y",),
    ),
}


def answer(model: ModelProto, shape: list[int]) -> Any:
    x = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    with session(model, "a test") as opened:
        return opened.run({"x": x})[0]


@pytest.mark.parametrize("name", PLACES)
def test_outputs_move_by_the_step(name: str) -> None:
    nodes, tensors, shape = PLACES[name]
    model = graph_of(nodes, tensors, shape)
    before = answer(model, shape)
    assert move_bias(model, place(model).layers[0], STEP)
    step = STEP.reshape(-1, 1, 1) if len(shape) == 4 else STEP
    np.testing.assert_allclose(answer(model, shape), before + step, atol=1e-5)
    assert [each.op_type for each in model.graph.node] == [each.op_type for each in nodes]


@pytest.mark.parametrize("name", NO_PLACE)
def test_without_a_place_nothing_moves(name: str) -> None:
    nodes, tensors, shape, outputs = NO_PLACE[name]
    model = graph_of(nodes, tensors, shape, outputs=outputs)
    before = model.SerializeToString()
    assert not move_bias(model, place(model).layers[0], STEP)
    assert model.SerializeToString() == before


def test_a_bias_that_layers_share_moves_for_one() -> None:
    nodes = [node("Gemm", "x", "w", "b", "p"), node("Gemm", "x", "w", "b", "q"), node("Sub", "p", "q", "y")]
    model = graph_of(nodes, {"w": W, "b": B}, [2, 4])
    assert move_bias(model, place(model).layers[1], STEP)
    np.testing.assert_allclose(answer(model, [2, 4]), np.broadcast_to(-STEP, (2, 3)), atol=1e-5)
