"""Graphs read without their weights: the same graphs, and the same files refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import ModelProto, helper, numpy_helper

from bbx.artifact.onnx_wire import LARGE, structure

LIGHT = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("*.onnx"))
assert LIGHT, "the onnx package has no graphs any more"


def _bare(path: Path) -> ModelProto:
    """What protobuf reads, less the bytes of large initialisers."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= LARGE:
            tensor.ClearField("raw_data")
    return model


def _net(path: Path, elements: int) -> Path:
    """A graph with an initialiser of so many bytes between two small ones."""
    weights = [
        numpy_helper.from_array(np.arange(4, dtype=np.int64), "shape"),
        numpy_helper.from_array(np.arange(elements).astype(np.uint8), "weights"),
        numpy_helper.from_array(np.array(2.5, np.float32), "scale"),
    ]
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
        helper.make_node("Cast", ["weights"], ["w"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["y", "scale"], ["z"]),
    ]
    x, z = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xz")
    onnx.save(helper.make_model(helper.make_graph(nodes, "net", [x], [z], weights)), path)
    return path


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_real_graphs_are_what_protobuf_reads(path: Path) -> None:
    assert structure(path) == _bare(path)


@pytest.mark.parametrize(("elements", "kept"), [(LARGE - 1, True), (LARGE, False), (40 * LARGE, False)])
def test_large_values_are_left_out_and_all_else_is_there(tmp_path: Path, elements: int, kept: bool) -> None:
    path = _net(tmp_path / "net.onnx", elements)
    found = structure(path)
    assert found == _bare(path)
    small, weights, scale = found.graph.initializer
    assert list(weights.dims) == [elements]
    assert bool(weights.raw_data) is kept
    assert numpy_helper.to_array(small).tolist() == [0, 1, 2, 3]
    assert numpy_helper.to_array(scale) == 2.5


def test_a_truncated_file_is_refused_where_protobuf_refuses_it(tmp_path: Path) -> None:
    whole = _net(tmp_path / "net.onnx", LARGE).read_bytes()
    cut = tmp_path / "cut.onnx"
    refused = 0
    for length in [*range(1, 600), *range(600, len(whole) - 600, 997), *range(len(whole) - 600, len(whole))]:
        cut.write_bytes(whole[:length])
        try:
            onnx.load(cut)
        except DecodeError:
            refused += 1
            with pytest.raises((DecodeError, ValueError)):
                structure(cut)
        else:
            assert structure(cut) == _bare(cut)
    assert refused > 1000
