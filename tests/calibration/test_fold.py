"""Batch normalisations go into the layer before them, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from bbx.calibration.fold import constant_weights, folded
from bbx.calibration.placement import place
from bbx.exporter import onnx_graph
from bbx.exporter.typed_policy import stays_float32
from tests.calibration.graphs import graph, marked, normal, operators, run

NORM = {
    "s": np.abs(normal(6, seed=1)) + 0.5,
    "o": normal(6, seed=2),
    "m": normal(6, seed=3),
    "r": np.abs(normal(6, seed=4)) + 0.1,
}


def _prepared(text: str, weights: dict[str, np.ndarray]) -> ModelProto:
    return onnx_graph.prepared(graph(text, weights), opset=13)


@pytest.mark.parametrize(
    ("node", "x", "weight", "y", "bias"),
    [
        ("Conv(x, w)", "[2,4,5,5]", (6, 4, 1, 1), "[2,6,5,5]", False),
        ("Conv(x, w, b)", "[2,4,5,5]", (6, 4, 1, 1), "[2,6,5,5]", True),
        ("Conv<group=2>(x, w)", "[2,4,5,5]", (6, 2, 1, 1), "[2,6,5,5]", False),
        ("Conv<group=6, pads=[1,1,1,1]>(x, w)", "[2,6,5,5]", (6, 1, 3, 3), "[2,6,5,5]", False),
        ("ConvTranspose<strides=[2,2]>(x, w)", "[2,4,5,5]", (4, 6, 2, 2), "[2,6,10,10]", False),
        ("ConvTranspose<strides=[2,2]>(x, w, b)", "[2,4,5,5]", (4, 6, 2, 2), "[2,6,10,10]", True),
        ("ConvTranspose<group=2>(x, w)", "[2,4,5,5]", (4, 3, 2, 2), "[2,6,6,6]", False),
        ("Gemm<transB=1>(x, w, b)", "[2,4]", (6, 4), "[2,6]", True),
        ("Gemm(x, w, b)", "[2,4]", (4, 6), "[2,6]", True),
        ("Gemm<alpha=0.5, transB=1>(x, w)", "[2,4]", (6, 4), "[2,6]", False),
    ],
)
def test_the_folded_graph_gives_the_same_numbers(
    node: str, x: str, weight: tuple[int, ...], y: str, bias: bool
) -> None:
    text = f"""(float{x} x) => (float{y} y) {{
        a = {node}
        n = BatchNormalization<epsilon=0.001>(a, s, o, m, r)
        y = Relu(n)
        }}"""
    weights = {"w": normal(*weight), **NORM} | ({"b": normal(6, seed=5)} if bias else {})
    model = _prepared(text, weights)
    result = folded(model)
    feeds = {"x": normal(*map(int, x[1:-1].split(",")), seed=6)}
    np.testing.assert_allclose(run(result, feeds)[0], run(model, feeds)[0], rtol=1e-4, atol=1e-5)
    assert operators(result) == [operators(model)[0], "Relu"]


def test_a_batch_norm_with_no_layer_before_it_stays() -> None:
    text = """(float[2,6,5,5] x) => (float[2,6,5,5] y) {
        n = BatchNormalization(x, s, o, m, r)
        y = Conv(n, w)
        }"""
    model = _prepared(text, {"w": normal(6, 6, 1, 1), **NORM})
    result = folded(model)
    assert operators(result) == ["BatchNormalization", "Conv"]
    feeds = {"x": normal(2, 6, 5, 5)}
    np.testing.assert_allclose(run(result, feeds)[0], run(model, feeds)[0], rtol=1e-5)


def test_a_layer_that_another_node_reads_too_keeps_its_own_numbers() -> None:
    text = """(float[2,4,5,5] x) => (float[2,6,5,5] y, float[2,6,5,5] z) {
        a = Conv(x, w)
        y = BatchNormalization(a, s, o, m, r)
        z = Relu(a)
        }"""
    model = _prepared(text, {"w": normal(6, 4, 1, 1), **NORM})
    feeds = {"x": normal(2, 4, 5, 5)}
    for ours, wanted in zip(run(folded(model), feeds), run(model, feeds), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)


def test_a_weight_that_two_layers_share_is_folded_for_each() -> None:
    text = """(float[2,6,5,5] x) => (float[2,6,5,5] y) {
        a = Conv(x, w)
        n = BatchNormalization(a, s, o, m, r)
        y = Conv(n, w)
        }"""
    model = _prepared(text, {"w": normal(6, 6, 1, 1), **NORM})
    feeds = {"x": normal(2, 6, 5, 5)}
    np.testing.assert_allclose(run(folded(model), feeds)[0], run(model, feeds)[0], rtol=1e-3, atol=1e-4)


def test_a_graph_without_batch_norms_is_given_back_as_it_is() -> None:
    model = _prepared("(float[2,4] x) => (float[2,4] y) { y = Neg(x) }", {})
    assert folded(model) is model


def test_names_and_marks_are_kept() -> None:
    text = """(float[2,4,5,5] x) => (float[2,6,5,5] y, float[2,6,5,5] z) {
        [stem] a = Conv(x, w)
        [norm] b = BatchNormalization(a, s, o, m, r)
        c = Relu(b)
        [end] z = Conv(c, v)
        [other] y = BatchNormalization(c, s, o, m, r)
        }"""
    model = _prepared(text, {"w": normal(6, 4, 1, 1), "v": normal(6, 6, 1, 1), **NORM})
    result = folded(marked(model, "stem", "decodes boxes"))
    assert [value.name for value in result.graph.input] == ["x"]
    assert [value.name for value in result.graph.output] == ["y", "z"]
    assert [(node.op_type, node.name) for node in result.graph.node] == [
        ("Conv", "stem"),
        ("Relu", ""),
        ("Conv", "end"),
        ("BatchNormalization", "other"),
    ]
    assert stays_float32(result.graph.node[0]) == "decodes boxes"


def test_weights_that_the_graph_makes_from_constants_become_initialisers() -> None:
    text = """(float[2,4] x) => (float[2,3] y, float[4,6] also) {
        t = Transpose<perm=[1,0]>(w)
        h = MatMul(x, t)
        r = Reshape(v, shape)
        f = Mul(r, factor)
        [last] y = MatMul(h, f)
        also = Transpose<perm=[1,0]>(w)
        }"""
    tensors = {"w": normal(6, 4), "v": normal(18), "shape": np.int64([6, 3]), "factor": np.float32(0.5)}
    model = _prepared(text, tensors)
    found = constant_weights(model)
    assert operators(found) == ["MatMul", "MatMul", "Transpose"]
    assert {each.name for each in found.graph.initializer} == {"w", "t", "f"}
    assert [layer.weight for layer in place(found).layers] == ["t", "f"]
    for ours, theirs in zip(run(found, {"x": normal(2, 4)}), run(model, {"x": normal(2, 4)}), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert operators(model) == ["Transpose", "MatMul", "Reshape", "Mul", "MatMul", "Transpose"]


def test_weights_that_come_from_the_input_are_left() -> None:
    text = "(float[4,4] x) => (float[4,4] y) { t = Transpose(x) \n y = MatMul(x, t) }"
    model = _prepared(text, {})
    assert constant_weights(model) is model
