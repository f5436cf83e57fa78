"""Scales as JSON and as TensorRT's calibration caches: both ways, and what is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bbx.calibration.scales import (
    TensorScale,
    check_scales,
    read_scale_table,
    read_scales,
    scales_from_graph,
    write_scales,
)
from bbx.errors import ArtifactError, UsageError

SCALES = {"images": TensorScale(0.0166015625), "layer: 1/relu": TensorScale(1.25), "Ω": TensorScale(3.0e-5)}


def _float32(scales: Mapping[str, TensorScale]) -> dict[str, float]:
    return {name: float(np.float32(scale.scale)) for name, scale in scales.items()}


def _graph(**constants: np.ndarray) -> onnx.ModelProto:
    """A weight in INT8, and x through one pair whose scale and zero point are given."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", *(["z"] if "z" in constants else [])], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", *(["z"] if "z" in constants else [])], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["v"], axis=0),
        helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]
    weights = {"w": np.ones((4, 4), np.int8), "ws": np.float32([1, 2, 3, 4]), **constants}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])


@pytest.mark.parametrize("name", ["scales.json", "calibration.cache"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    write_scales(tmp_path / name, SCALES)
    assert read_scales(tmp_path / name) == _float32(SCALES)
    assert list(read_scale_table(tmp_path / name)) == list(SCALES)


def test_a_cache_is_what_tensorrt_writes(tmp_path: Path) -> None:
    write_scales(tmp_path / "a.cache", {"images": TensorScale(0.0166015625)})
    assert (tmp_path / "a.cache").read_text() == "TRT-8601-EntropyCalibration2\nimages: 3c880000\n"


def test_a_cache_of_tensorrt_10_is_read_without_tensors_of_its_own_making(tmp_path: Path) -> None:
    text = (
        "TRT-100300-MinMaxCalibration\ninput: 3c8954be\n(Unnamed Layer* 3) [Constant]_output: 3a000000\r\n\n"
    )
    (tmp_path / "calib").write_text(text)
    assert read_scales(tmp_path / "calib") == {"input": struct.unpack(">f", bytes.fromhex("3c8954be"))[0]}


def test_zero_point_and_type_survive_in_json_and_are_refused_where_they_cannot_be_said(
    tmp_path: Path,
) -> None:
    table = {"x": TensorScale(0.5, 128, "uint8"), "y": TensorScale(0.25, 0, "float8_e4m3fn")}
    write_scales(tmp_path / "scales.json", table)
    assert read_scale_table(tmp_path / "scales.json") == table
    with pytest.raises(ArtifactError, match="zero point 128; TensorRT quantises symmetrically"):
        read_scales(tmp_path / "scales.json")
    with pytest.raises(ArtifactError, match=r"uint8 with zero point 128\. Type: a\.json"):
        write_scales(tmp_path / "a.cache", table)
    assert not (tmp_path / "a.cache").exists()


@pytest.mark.parametrize("dtype", ["uint8", "float8_e4m3fn"])
def test_a_scale_for_another_type_is_refused(tmp_path: Path, dtype: str) -> None:
    """A tensor's largest value becomes 127 in INT8, 255 in UINT8 and 448 in E4M3."""
    write_scales(tmp_path / "s.json", {"x": TensorScale(0.5), "y": TensorScale(0.25, 0, dtype)})
    with pytest.raises(ArtifactError, match=f"'y' is for {dtype}, and values will be stored in int8"):
        read_scales(tmp_path / "s.json", dtype="int8")
    assert read_scales(tmp_path / "s.json") == {"x": 0.5, "y": 0.25}


def test_a_bare_number_is_a_scale(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"schema": "bbx/1", "kind": "scales", "scales": {"x": 2, "y": 0.5}}')
    assert read_scales(tmp_path / "s.json") == {"x": 2.0, "y": 0.5}


@pytest.mark.parametrize(
    ("constants", "expected"),
    [
        ({"s": np.float32(0.5), "z": np.int8(0)}, TensorScale(0.5, 0, "int8")),
        ({"s": np.float32([0.5]), "z": np.uint8([7])}, TensorScale(0.5, 7, "uint8")),
        ({"s": np.float16(0.5), "z": np.int8(0)}, TensorScale(0.5, 0, "int8")),
        ({"s": np.float32(0.5)}, TensorScale(0.5, 0, "uint8")),
    ],
)
def test_activations_of_a_graph_have_scales_and_weights_have_none(
    constants: dict[str, np.ndarray], expected: TensorScale
) -> None:
    assert scales_from_graph(_graph(**{k: np.asarray(v) for k, v in constants.items()})) == {"x": expected}


def test_a_graph_whose_scale_is_zero_is_refused() -> None:
    with pytest.raises(ArtifactError, match="The graph: the scale of 'x' is 0, and must be positive"):
        scales_from_graph(_graph(s=np.float32(0), z=np.asarray(0, np.int8)))


def test_a_name_that_the_graph_does_not_have_is_named_with_the_nearest() -> None:
    scales = {"relu_9": 1.0, "relu_1": 1.0}
    check_scales(scales, ["relu_1", "relu_9"], {"relu_1", "relu_9", "x"})
    with pytest.raises(UsageError, match=r"1 scales .* does not have, such as 'relu_9'\. Nearest: relu_"):
        check_scales(scales, ["relu_1", "relu_2"], {"relu_1", "relu_2"})
    with pytest.raises(UsageError, match=r"2 scales .*'relu_9'"):
        check_scales(scales, ["images"], {"images"})
    with pytest.raises(UsageError, match=r"None of the 2 scales .* Such tensors are 'images'"):
        check_scales(scales, ["images"], {"images", "relu_1", "relu_9"})


def _document(scales: object, **other: object) -> str:
    return json.dumps({"schema": "bbx/1", "kind": "scales", "scales": scales} | other)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_document({"x": 0}), "the scale of 'x' is 0, and must be positive and finite"),
        (_document({"x": -1.5}), "is -1.5, and must be positive"),
        (_document({"x": float("nan")}), "is nan"),
        (_document({"x": {"scale": 1e60}}), r"is 1e\+60"),
        (_document({"x": 10**400}), "must be positive and finite"),
        (_document({"x": 1e-60}), "is 1e-60"),
        (_document({"x": True}), "must be numbers and a type"),
        (_document({"x": "1"}), "must be a number, or have scale"),
        (_document({"x": {"scale": 1, "zp": 0}}), "must be a number, or have scale"),
        (_document({"x": {"scale": 1, "zero_point": 0.5}}), "must be numbers and a type"),
        (_document({}), "holds no scales"),
        (_document([1]), "no object 'scales'"),
        (_document({"x": 1}, schema="bbx/2"), "of schema 'bbx/2', and this bbx reads bbx/1"),
        ('{"x": 1}', "is JSON, and holds no scales"),
        ("[]", "is JSON, and holds no scales"),
        (_document({"x": 1})[:-9], "truncated, or neither JSON nor a calibration cache"),
        ("", "truncated, or neither JSON nor a calibration cache"),
        ('{"schema": "bbx/1", "kind": "scales", "scales": {"x": 1, "x": 2}}', "has 'x' twice"),
        ("TRT-8601-EntropyCalibration2\n", "holds no scales"),
        ("TRT-8601-EntropyCalibration2\nx: 3c89", "line 2 is 'x: 3c89'"),
        ("TRT-8601-EntropyCalibration2\nx: 3c8954be\nx", "line 3 is 'x'"),
        ("TRT-8601-EntropyCalibration2\nx: 3c8954bg", "must be a name, a colon and 8 hexadecimal digits"),
        ("TRT-8601-EntropyCalibration2\nx: 3c8954be\nx: 3c8954be", "has 'x' twice"),
        ("TRT-8601-EntropyCalibration2\nx: 00000000", "the scale of 'x' is 0"),
        ("TRT-8601-EntropyCalibration2\nx: 7f800000", "the scale of 'x' is inf"),
        ("TRT-8601-EntropyCalibration2\nx: bf800000", "the scale of 'x' is -1"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "scales").write_text(text)
    with pytest.raises(ArtifactError, match=said) as caught:
        read_scale_table(tmp_path / "scales")
    assert str(tmp_path / "scales") in str(caught.value)


def test_files_that_are_no_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match="is no text"):
        read_scales(tmp_path / "s")
    with pytest.raises(ArtifactError, match="There is no file"):
        read_scales(tmp_path / "none.json")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_scales(tmp_path)
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_scales(tmp_path / "nowhere" / "s.json", SCALES)
