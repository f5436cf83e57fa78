"""The range scan against NumPy, on graphs whose activations are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bbx.calibration.ranges import activation_ranges
from bbx.errors import ArtifactError, BbxError


def _saved(
    tmp_path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], opset: int = 20
) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    path = tmp_path / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def test_extremes_are_taken_over_every_batch(tmp_path: Path) -> None:
    path = _saved(tmp_path, [helper.make_node("Mul", ["x", "w"], ["y"])], {"w": np.float32([1, 2, 3, 4])})
    batches = [np.full((2, 4), 10, np.float32), np.full((3, 4), -100, np.float32)]
    ranges = activation_ranges(path, ({"x": batch} for batch in batches))
    assert set(ranges) == {"x", "y"}
    assert (ranges["y"].minimum, ranges["y"].maximum, ranges["y"].absmax) == (-400, 40, 400)
    assert ranges["y"].finite


def test_shares_count_only_values_that_are_not_zero(tmp_path: Path) -> None:
    path = _saved(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], {})
    # zero, below half of FP16's smallest subnormal, subnormal in FP16, normal
    ranges = activation_ranges(path, [{"x": np.float32([[0, 1e-9, -1e-6, 1]])}])
    assert ranges["y"].subnormal_share == pytest.approx(2 / 3)
    assert ranges["y"].underflow_share == pytest.approx(1 / 3)


@pytest.mark.parametrize("hostile", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_makes_the_range_unbounded(tmp_path: Path, hostile: float) -> None:
    path = _saved(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], {})
    calm, wild = np.float32([[1, -5, 3, 2]]), np.float32([[1, -5, 3, hostile]])
    assert activation_ranges(path, [{"x": calm}])["y"].finite
    seen = activation_ranges(path, [{"x": calm}, {"x": wild}, {"x": calm}])["y"]
    assert not seen.finite
    assert seen.absmax == np.inf


def test_underflow_agrees_with_numpy_rounding(tmp_path: Path) -> None:
    values = (np.random.default_rng(0).standard_normal((64, 4)) * 1e-7).astype(np.float32)
    path = _saved(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], {})
    seen = activation_ranges(path, [{"x": values}])["y"]
    assert seen.underflow_share == pytest.approx(float((values.astype(np.float16) == 0).mean()))
    assert seen.subnormal_share == 1.0


def test_old_opsets_and_integer_tensors_are_scanned(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Relu", ["r"], ["y"]),
    ]
    ranges = activation_ranges(_saved(tmp_path, nodes, {}, opset=9), [{"x": np.float32([[-1, 2, -3, 4]])}])
    assert set(ranges) == {"x", "r", "y"}
    assert (ranges["y"].minimum, ranges["y"].maximum) == (0, 4)


def test_no_batch_is_an_error(tmp_path: Path) -> None:
    path = _saved(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], {})
    with pytest.raises(BbxError, match="at least one batch"):
        activation_ranges(path, [])


def test_a_batch_of_the_wrong_shape_is_an_error(tmp_path: Path) -> None:
    path = _saved(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], {})
    with pytest.raises(BbxError, match="cannot run the graph"):
        activation_ranges(path, [{"x": np.zeros((1, 5), np.float32)}])


def test_a_truncated_graph_is_an_error(tmp_path: Path) -> None:
    path = _saved(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], {})
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ArtifactError):
        activation_ranges(path, [{"x": np.zeros((1, 4), np.float32)}])
