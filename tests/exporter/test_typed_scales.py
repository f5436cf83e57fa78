"""Scales of Q/DQ nodes in FP16: what the type cannot hold is raised, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import bbx
from bbx.exporter.onnx_io import spill_onnx
from bbx.exporter.to_typed import typed_from_onnx

LEAST, NORMAL = 2.0**-24, 2.0**-14
RNG = np.random.default_rng(3)


def graph(
    nodes: list[NodeProto], weights: dict[str, Any], shape: tuple[int | str, ...], out: tuple[int, ...]
) -> ModelProto:
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", *out))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def convolution(weight: dict[str, Any], activation: float = 0.05, zero: bool = False) -> ModelProto:
    """A quantised input, a quantised weight [4, 3, 3, 3], a convolution."""
    inputs = ["wq", "ws", "wz"] if zero else ["wq", "ws"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", inputs, ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["y"], pads=[1] * 4),
    ]
    return graph(nodes, {"xs": np.float32(activation), "xz": np.int8(0)} | weight, ("n", 3, 8, 8), (4, 8, 8))


def stored(model: ModelProto) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def restored(tensors: dict[str, NDArray[np.generic]]) -> NDArray[np.float64]:
    zero = tensors["wz"].astype(np.float64).reshape(-1, 1, 1, 1) if "wz" in tensors else 0.0
    scale = tensors["ws"].astype(np.float64).reshape(-1, 1, 1, 1)
    return (tensors["wq"].astype(np.float64) - zero) * scale


def some(*shape: int) -> NDArray[np.int8]:
    return RNG.integers(-127, 128, shape, dtype=np.int8)


SCALES = np.float32([0.01, 3e-6, 2.0**-60, 4.1e-5])


@pytest.mark.parametrize("zero", [False, True])
def test_small_channels_keep_their_weights_and_dead_ones_a_scale(zero: bool) -> None:
    given = {"wq": some(4, 3, 3, 3), "ws": SCALES}
    if zero:
        given["wz"] = np.int8([0, 30, -20, 5])
    source = convolution(given, zero=zero)
    typed = stored(typed_from_onnx(source, "fp16", {}).model)
    assert typed["ws"].dtype == np.float16
    assert (typed["ws"] > 0).all()
    wanted, got = restored(stored(source)), restored(typed)
    # Half a step of the scale that is stored.
    assert (
        np.abs(got - wanted).reshape(4, -1).max(axis=1)[1:] <= 0.5001 * typed["ws"][1:].astype(np.float64)
    ).all()
    assert np.abs(got[3] - wanted[3]).max() < 0.006 * np.abs(wanted[3]).max()
    assert np.abs(got[2]).max() <= LEAST
    np.testing.assert_array_equal(typed["wq"][0], given["wq"][0])


def test_scales_that_fit_change_no_weight() -> None:
    given = {"wq": some(4, 3, 3, 3), "ws": np.float32([0.01, 0.3, NORMAL, 1.5])}
    typed = stored(typed_from_onnx(convolution(given), "fp16", {}).model)
    np.testing.assert_array_equal(typed["wq"], given["wq"])
    np.testing.assert_array_equal(typed["ws"], given["ws"].astype(np.float16))


def test_bf16_holds_them_all() -> None:
    given = {"wq": some(4, 3, 3, 3), "ws": SCALES}
    source = convolution(given)
    typed = stored(typed_from_onnx(source, "bf16", {}).model)
    np.testing.assert_array_equal(typed["wq"], given["wq"])
    np.testing.assert_array_equal(typed["ws"], SCALES.astype(ml_dtypes.bfloat16))


def test_fp8_weights_are_rounded_anew() -> None:
    given = {
        "wq": RNG.standard_normal((4, 3, 3, 3)).astype(ml_dtypes.float8_e4m3fn),
        "ws": np.float32([0.01, 3e-6, 2.0**-60, 1e-7]),
    }
    source = convolution(given)
    typed = stored(typed_from_onnx(source, "fp16", {}).model)
    wanted, got = restored(stored(source)), restored(typed)
    # The scale of the last one grows by a fifth; E4M3 rounds by a sixteenth at most.
    assert np.abs(got[3] - wanted[3]).max() < 0.07 * np.abs(wanted[3]).max()
    assert typed["wq"].dtype == ml_dtypes.float8_e4m3fn
    assert (typed["ws"] > 0).all()


def test_an_activation_of_nothing_but_zeros_keeps_a_scale() -> None:
    typed = stored(
        typed_from_onnx(
            convolution({"wq": some(4, 3, 3, 3), "ws": np.float32([0.1] * 4)}, activation=1e-12), "fp16", {}
        ).model
    )
    assert typed["xs"] == np.float16(LEAST)


def test_a_weight_that_is_read_elsewhere_stays() -> None:
    given = {"wq": some(4, 3, 3, 3), "ws": SCALES}
    source = convolution(given)
    source.graph.node.append(helper.make_node("Cast", ["wq"], ["other"], to=TensorProto.FLOAT))
    source.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, None))
    typed = stored(typed_from_onnx(source, "fp16", {}).model)
    np.testing.assert_array_equal(typed["wq"], given["wq"])


def test_a_network_with_a_dead_filter_becomes_an_engine_in_both_types(tmp_path: Path) -> None:
    """TensorRT refuses a scale of zero."""
    weight = RNG.standard_normal((16, 3, 3, 3)).astype(np.float32)
    weight[5] = 0.0
    weight[6] *= 1e-20
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4, name="c"),
        helper.make_node("Relu", ["c"], ["r"], name="r"),
        helper.make_node("Conv", ["r", "v"], ["y"], name="y"),
    ]
    second = RNG.standard_normal((8, 16, 1, 1)).astype(np.float32)
    path = tmp_path / "dead.onnx"
    spill_onnx(graph(nodes, {"w": weight, "v": second}, ("n", 3, 16, 16), (8, 16, 16)), path)
    images = tmp_path / "images.npy"
    np.save(images, RNG.standard_normal((24, 3, 16, 16)).astype(np.float32))
    made = bbx.quantize(str(path), precision="int8", calib=str(images), out=tmp_path)
    built = bbx.build_engine(
        made["artifact"], precision="int8", rest="fp16", flavor="rtx", targets=["sm_86"], out=tmp_path
    )
    assert built["precision"]["verdict"] == "pass"
    assert built["parity"]["verdict"] == "pass"
