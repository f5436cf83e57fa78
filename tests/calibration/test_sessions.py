"""ONNX Runtime over graphs in memory: FP8 as it is written, and errors that say what for."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from bbx.calibration.sessions import session
from bbx.errors import BbxError
from bbx.exporter import onnx_io
from bbx.exporter.onnx_io import save_onnx
from tests.calibration.graphs import graph, normal

X = np.linspace(-12, 12, 97, dtype=np.float32)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("node", "wanted"), [("Relu(x)", np.maximum(X, 0)), ("Clip(x, zero, six)", np.clip(X, 0, 6))]
)
def test_an_activation_before_an_fp8_quantiser_is_computed(
    node: str, wanted: np.ndarray, exact: bool
) -> None:
    text = f"""(float[97] x) => (float[97] y) {{
        a = {node}
        q = QuantizeLinear(a, scale, zp)
        y = DequantizeLinear(q, scale, zp)
        }}"""
    constants = {
        "scale": np.float32(0.25),
        "zp": np.zeros((), ml_dtypes.float8_e4m3fn),
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    with session(graph(text, constants), "a test", exact=exact) as opened:
        (y,) = opened.run({"x": X})
    stored = (wanted / 0.25).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * 0.25
    np.testing.assert_array_equal(y, stored)


def test_exact_int8_is_what_the_nodes_say() -> None:
    text = """(float[N,4] x) => (float[N,4] y) {
        q = QuantizeLinear(x, scale, zp)
        d = DequantizeLinear(q, scale, zp)
        w = DequantizeLinear(stored, ones, zps)
        a = MatMul(d, w)
        b = QuantizeLinear(a, coarse, zp)
        y = DequantizeLinear(b, coarse, zp)
        }"""
    stored = np.random.default_rng(0).integers(-127, 128, (4, 4)).astype(np.int8)
    constants = {
        "scale": np.float32(0.1),
        "coarse": np.float32(8),
        "zp": np.int8(0),
        "zps": np.int8(0),
        "ones": np.float32(1),
        "stored": stored,
    }
    x = normal(5, 4, scale=4.0)
    with session(graph(text, constants), "a test", exact=True) as opened:
        (y,) = opened.run({"x": x})
    fake = np.clip(np.rint(x / np.float32(0.1)), -128, 127) * np.float32(0.1)
    product = (fake @ stored.astype(np.float32)) / 8
    # Where a product is not near a tie, there is only one answer.
    sure = np.abs(product - np.floor(product) - 0.5) > 1e-3
    assert sure.mean() > 0.9
    np.testing.assert_allclose(y[sure], (np.clip(np.rint(product), -128, 127) * 8)[sure], rtol=1e-6)


def test_outputs_are_given_by_name() -> None:
    text = "(float[N] x) => (float[N] a, float[N] b) { a = Neg(x) \n b = Exp(x) }"
    with session(graph(text), "a test") as opened:
        assert (opened.inputs, opened.outputs) == (("x",), ("a", "b"))
        (b,) = opened.run({"x": np.zeros(2, np.float32)}, ["b"])
        assert b.tolist() == [1.0, 1.0]
        assert len(opened.run({"x": np.zeros(2, np.float32)})) == 2


def test_a_graph_above_protobufs_limit_goes_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"w": np.eye(64, dtype=np.float32)}
    model = graph("(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", weights)
    before = model.SerializeToString()
    monkeypatch.setattr(onnx_io, "PROTOBUF_LIMIT", 1000)
    x = normal(3, 64)
    with session(model, "a test") as opened:
        np.testing.assert_allclose(opened.run({"x": x})[0], x, rtol=1e-6)
    assert model.SerializeToString() == before


def test_a_graph_that_protobuf_cannot_write_is_written(tmp_path: Path) -> None:
    """Really above 2 GiB: protobuf does not even say how large such a message is."""
    part = bytes(700 * 2**20)
    model = graph("(float[N] x) => (float[N] y) { y = Neg(x) }")
    for name in ("a", "b", "c"):
        model.graph.initializer.add(name=name, data_type=1, dims=[len(part) // 4], raw_data=part)
    path = tmp_path / "large.onnx"
    save_onnx(model, path)
    assert path.stat().st_size < 10_000
    assert path.with_name("large.onnx.data").stat().st_size == 3 * len(part)
    # The graph in memory is as it was.
    assert [len(tensor.raw_data) for tensor in model.graph.initializer] == [len(part)] * 3
    assert not any(tensor.HasField("data_location") for tensor in model.graph.initializer)


def test_errors_say_what_the_graph_was_for() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20, "their.own" : 1]> '
        "g (float[N] x) => (float[N] y) { y = their.own.Magic(x) }"
    )
    with (
        pytest.raises(BbxError, match=r"cannot load the graph for a trial: .*Magic"),
        session(model, "a trial"),
    ):
        pass
    with (
        session(graph("(float[N] x) => (float[N] y) { y = Neg(x) }"), "a trial") as opened,
        pytest.raises(BbxError, match="cannot run the graph for a trial"),
    ):
        opened.run({})
