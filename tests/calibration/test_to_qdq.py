"""A graph with Q/DQ nodes computes what fake quantisation in NumPy computes, to the last bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from torch.nn import functional

from bbx.calibration.placement import place
from bbx.calibration.to_qdq import EightBit, QuantisedWeight, qdq_from_onnx
from bbx.calibration.weights import quantised_weight
from bbx.errors import ExportError
from tests.calibration.graphs import graph, normal, operators, run, weight_of

RNG = np.random.default_rng(0)
SCALES = {"x": 0.5, "b": 4.0, "d": 4.0}


def _whole(*shape: int) -> NDArray[np.float32]:
    """Whole numbers from -127 to 127 with 127 in each output channel: the scale of each is exactly 1."""
    values = RNG.integers(-127, 128, shape).astype(np.float32)
    values.reshape(shape[0], -1)[:, 0] = 127
    return values


WEIGHTS = {"w": _whole(4, 3, 1, 1), "v": _whole(4, 4, 1, 1), "u": RNG.integers(-9, 9, 4).astype(np.float32)}
X = RNG.integers(-160, 160, (2, 3, 5, 5)).astype(np.float32) / 4


def _block() -> ModelProto:
    """A residual block whose shortcut, `b`, is read twice, and once more by a node that is no layer."""
    text = """(float[N,3,5,5] x) => (float[N,4,5,5] y, float[N,4,5,5] n) {
        [one] a = Conv(x, w, u)
        b = Relu(a)
        [two] c = Conv(b, v)
        d = Relu(c)
        [three] e = Conv(d, v)
        [add] f = Add(e, b)
        y = Relu(f)
        n = Neg(b)
        }"""
    return graph(text, WEIGHTS)


def _weights(model: ModelProto, kind: EightBit = "int8") -> dict[str, QuantisedWeight]:
    return {
        layer.weight: quantised_weight(weight_of(model, layer), layer.axis, kind)
        for layer in place(model).layers
    }


def _quantised(kind: EightBit = "int8", scales: dict[str, float] = SCALES) -> ModelProto:
    model = _block()
    return qdq_from_onnx(model, place(model), scales, _weights(model, kind), kind)


def _fake(values: NDArray[np.float32], scale: float, kind: EightBit) -> NDArray[np.float32]:
    if kind == "int8":
        return (np.clip(np.rint(values / scale), -128, 127) * scale).astype(np.float32)
    stored = np.clip(values / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    return stored.astype(np.float32) * np.float32(scale)


def _conv(
    values: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    given = None if bias is None else torch.from_numpy(bias)
    return functional.conv2d(torch.from_numpy(values), torch.from_numpy(weight), given).numpy()


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_numbers_are_those_of_fake_quantisation(kind: EightBit) -> None:
    # All numbers are small multiples of powers of two, so that no sum is rounded and equality is exact.
    weights = {name: value.restored() for name, value in _weights(_block(), kind).items()}
    x = _fake(X, SCALES["x"], kind)
    b = np.maximum(_conv(x, weights["w"], WEIGHTS["u"]), 0)
    d = np.maximum(_conv(_fake(b, SCALES["b"], kind), weights["v"]), 0)
    e = _conv(_fake(d, SCALES["d"], kind), weights["v"])
    y, n = run(_quantised(kind), {"x": X})
    exact = {"rtol": 0, "atol": 0} if kind == "int8" else {"rtol": 1e-5, "atol": 1e-3}
    np.testing.assert_allclose(y, np.maximum(e + _fake(b, SCALES["b"], kind), 0), **exact)
    # The node that is no layer reads what was never quantised.
    np.testing.assert_allclose(n, -b, **exact)


def test_whole_weights_are_stored_as_they_are() -> None:
    weights = _weights(_block())
    np.testing.assert_array_equal(weights["v"].values, WEIGHTS["v"])
    np.testing.assert_array_equal(weights["v"].scale, np.ones(4))


def test_one_pair_a_tensor_and_one_dequantiser_a_weight() -> None:
    model = _quantised()
    found = operators(model)
    # x, b and d; the weight `v` is read by two layers and stored once.
    assert (found.count("QuantizeLinear"), found.count("DequantizeLinear")) == (3, 3 + 2)
    quantisers = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert quantisers == ["x", "b", "d"]


@pytest.mark.parametrize(
    ("kind", "stored", "opset"), [("int8", TensorProto.INT8, 13), ("fp8", TensorProto.FLOAT8E4M3FN, 19)]
)
def test_weights_are_stored_in_eight_bits_and_biases_are_not(kind: EightBit, stored: int, opset: int) -> None:
    model = _quantised(kind)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    assert not {"w", "v"} & tensors.keys()
    assert {tensors[name].data_type for name in ("w_quantized", "v_quantized")} == {stored}
    np.testing.assert_array_equal(numpy_helper.to_array(tensors["u"]), WEIGHTS["u"])
    zeros = [tensor for name, tensor in tensors.items() if name.endswith("_zero_point")]
    assert {tensor.data_type for tensor in zeros} == {stored}
    assert not any(numpy_helper.to_array(tensor).astype(np.float32).any() for tensor in zeros)
    assert next(node for node in model.graph.node if node.name == "one").input[2] == "u"
    assert model.opset_import[0].version >= opset
    onnx.checker.check_model(model, full_check=True)


def test_a_file_of_weights_is_a_quarter() -> None:
    text = "(float[N,64,8,8] x) => (float[N,64,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w) }"
    model = graph(text, {"w": normal(64, 64, 3, 3)})
    quantised = qdq_from_onnx(model, place(model), {"x": 1.0}, _weights(model), "int8")
    assert 0.25 <= quantised.ByteSize() / model.ByteSize() < 0.27


def test_a_weight_that_a_kept_layer_reads_too_stays_beside_its_copy() -> None:
    model = _block()
    placement = place(model, keep={"two": "asked for"})
    quantised = qdq_from_onnx(model, placement, SCALES, _weights(model), "int8")
    assert next(node for node in quantised.graph.node if node.name == "two").input[1] == "v"
    assert {"v", "v_quantized"} <= {tensor.name for tensor in quantised.graph.initializer}


def test_the_graph_given_is_not_changed_and_the_same_again_is_the_same_bytes() -> None:
    model = _block()
    before = model.SerializeToString()
    first, second = (
        qdq_from_onnx(model, place(model), SCALES, _weights(model), "int8").SerializeToString()
        for _ in range(2)
    )
    assert model.SerializeToString() == before
    assert first == second != before


def test_names_that_are_taken_are_not_taken_again() -> None:
    text = """(float[N,4] x) => (float[N,4] y) {
        x_scale = Neg(x)
        w_quantized = MatMul(x, w)
        y = Add(x_scale, w_quantized)
        }"""
    model = graph(text, {"w": _whole(4, 4)})
    quantised = qdq_from_onnx(model, place(model), {"x": 1.0}, _weights(model), "int8")
    (y,) = run(quantised, {"x": np.eye(4, dtype=np.float32)})
    np.testing.assert_allclose(y, _weights(model)["w"].restored() - np.eye(4), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_scales_are_per_output_channel(axis: int) -> None:
    values = normal(6, 6) * np.float32(10.0) ** np.arange(6, dtype=np.float32)
    values = values if axis == 1 else values.T.copy()
    text = f"(float[N,6] x) => (float[N,6] y) {{ y = Gemm<transB={1 - axis}>(x, w) }}"
    model = graph(text, {"w": values})
    quantised = qdq_from_onnx(model, place(model), {"x": 1.0}, _weights(model), "int8")
    (y,) = run(quantised, {"x": np.eye(6, dtype=np.float32)})
    wanted = values if axis == 1 else values.T
    assert (np.abs(y - wanted).max(axis=0) <= np.abs(wanted).max(axis=0) / 127 * 0.501).all()


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_has_to_be_positive_and_finite(scale: float) -> None:
    with pytest.raises(ExportError, match=r"The scale of 'b' is .*, and must be positive and finite"):
        _quantised(scales=SCALES | {"b": scale})


def test_missing_scales_and_weights_are_named() -> None:
    model = _block()
    with pytest.raises(ExportError, match="1 tensors have no scale: d"):
        _quantised(scales={"x": 1.0, "b": 1.0})
    only = {"w": _weights(model)["w"]}
    with pytest.raises(ExportError, match="2 tensors have no scale: v, v"):
        qdq_from_onnx(model, place(model), SCALES, only, "int8")
