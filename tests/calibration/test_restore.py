"""Putting nodes back to FP32: the right ones change, the others stay, and no tensor becomes an output."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bbx.calibration.low_precision import LowGraph, dequantised, low_graph, precision_of
from bbx.calibration.restore import restored
from bbx.errors import ArtifactError
from bbx.exporter.emulate import emulated_from_typed
from bbx.exporter.to_typed import typed_from_onnx

RNG = np.random.default_rng(0)
X = (4 * RNG.standard_normal((2, 4))).astype(np.float32)
W = RNG.standard_normal((4, 4)).astype(np.float32)
V = RNG.standard_normal((4, 3)).astype(np.float32)


def _model(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], outputs: Iterable[str] = ("y",)
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def _run(model: ModelProto) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": X})


def _pair(source: str) -> list[onnx.NodeProto]:
    """x to xd through xq, with the scale xs."""
    return [
        helper.make_node("QuantizeLinear", [source, f"{source}s", "z"], [f"{source}q"]),
        helper.make_node("DequantizeLinear", [f"{source}q", f"{source}s", "z"], [f"{source}d"]),
    ]


def _stored(name: str) -> onnx.NodeProto:
    """A weight in INT8 with a scale for each column."""
    return helper.make_node("DequantizeLinear", [name, f"{name}s"], [f"{name}d"], axis=1)


WS = (np.abs(W).max(0) / 127).astype(np.float32)
VS = (np.abs(V).max(0) / 127).astype(np.float32)
QUANTISED = {
    **{"z": np.int8(0), "xs": np.float32(0.1), "as": np.float32(0.1), "rs": np.float32(0.1)},
    **{"w": np.rint(W / WS).astype(np.int8), "ws": WS, "v": np.rint(V / VS).astype(np.int8), "vs": VS},
}


def _quantised() -> LowGraph:
    """first and second read `x` and `r` through Q/DQ; `also` reads the same pair of `r`."""
    nodes = [
        *_pair("x"),
        _stored("w"),
        _stored("v"),
        helper.make_node("MatMul", ["xd", "wd"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        *_pair("r"),
        helper.make_node("MatMul", ["rd", "vd"], ["y"], name="second"),
        helper.make_node("Neg", ["rd"], ["n"], name="also"),
    ]
    return low_graph(_model(nodes, QUANTISED, ("y", "n")), "it")


def _ops(model: ModelProto) -> dict[str, int]:
    found = [node.op_type for node in model.graph.node]
    return {operator: found.count(operator) for operator in sorted(set(found))}


def _index(graph: LowGraph, *names: str) -> list[int]:
    return [low.index for low in graph.low if low.name in names]


def test_low_nodes_are_the_readers_of_quantised_tensors() -> None:
    graph = _quantised()
    assert [(low.name, low.op_type, low.precisions) for low in graph.low] == [
        ("first", "MatMul", ("int8",)),
        ("second", "MatMul", ("int8",)),
        ("also", "Neg", ("int8",)),
    ]


def test_nothing_chosen_is_the_graph_itself() -> None:
    graph = _quantised()
    same = restored(graph, [], {})
    assert [node.op_type for node in same.graph.node] == [node.op_type for node in graph.nodes]
    for want, got in zip(_run(graph.model), _run(same), strict=True):
        np.testing.assert_array_equal(want, got)


def test_everything_chosen_has_no_qdq_and_keeps_the_rounded_weights() -> None:
    graph = _quantised()
    plain = restored(graph, [low.index for low in graph.low], {})
    assert _ops(plain) == {"MatMul": 2, "Neg": 1, "Relu": 1}
    rounded = np.maximum(X @ (QUANTISED["w"] * WS), 0)
    np.testing.assert_allclose(_run(plain)[0], rounded @ (QUANTISED["v"] * VS), rtol=1e-5, atol=1e-6)


def test_one_reader_of_a_shared_pair_is_put_back_and_the_other_is_not() -> None:
    graph = _quantised()
    some = restored(graph, _index(graph, "second"), {})
    assert [value.name for value in some.graph.output] == ["y", "n"]
    before, after = _run(graph.model), _run(some)
    np.testing.assert_array_equal(before[1], after[1])
    r = np.maximum(_relu_in(graph), 0)
    np.testing.assert_allclose(after[0], r @ (QUANTISED["v"] * VS), rtol=1e-5, atol=1e-6)
    assert _ops(some)["DequantizeLinear"] == 3


def _relu_in(graph: LowGraph) -> np.ndarray:
    x = np.clip(np.rint(X / QUANTISED["xs"]), -128, 127) * QUANTISED["xs"]
    return x @ (QUANTISED["w"] * WS)


def test_weights_of_the_reference_replace_broken_ones_of_the_chosen_only() -> None:
    graph = _quantised()
    (second,) = _index(graph, "second")
    (first,) = _index(graph, "first")
    exact = {(second, 1): V, (first, 1): W}
    some = restored(graph, [second], exact)
    np.testing.assert_allclose(_run(some)[0], np.maximum(_relu_in(graph), 0) @ V, rtol=1e-5, atol=1e-6)
    everything = restored(graph, [low.index for low in graph.low], exact)
    np.testing.assert_allclose(_run(everything)[0], np.maximum(X @ W, 0) @ V, rtol=1e-5, atol=1e-6)
    assert {tensor.data_type for tensor in everything.graph.initializer} == {TensorProto.FLOAT}


def test_an_output_that_is_quantised_can_be_put_back() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "f"], ["r"], name="product"),
        helper.make_node("QuantizeLinear", ["r", "rs", "z"], ["rq"]),
        helper.make_node("DequantizeLinear", ["rq", "rs", "z"], ["y"]),
    ]
    graph = low_graph(_model(nodes, {"f": W, "rs": np.float32(0.5), "z": np.int8(0)}), "it")
    assert [(low.name, low.op_type) for low in graph.low] == [("y", "Output")]
    plain = restored(graph, [graph.low[0].index], {})
    assert _ops(plain) == {"Identity": 1, "MatMul": 1}
    np.testing.assert_allclose(_run(plain)[0], X @ W, rtol=1e-5)


def _typed(*, half_io: bool = False, factor: float = 1.0) -> tuple[ModelProto, LowGraph]:
    """x·w, relu, ·v in FP16; with a factor the first product overflows and the second undoes it."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
    ]
    weights = {"w": (W * factor).astype(np.float32), "v": (V / factor).astype(np.float32)}
    source = _model(nodes, weights)
    return source, low_graph(typed_from_onnx(source, "fp16", {}, half_io=half_io).model, "it")


def test_a_typed_graph_put_back_has_no_cast() -> None:
    source, graph = _typed()
    assert [low.precisions for low in graph.low] == [("fp16",)] * 3
    plain = restored(graph, [low.index for low in graph.low], {})
    assert "Cast" not in _ops(plain)
    # The weights are what FP16 made of them.
    half = W.astype(np.float16).astype(np.float32), V.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(_run(plain)[0], np.maximum(X @ half[0], 0) @ half[1], rtol=1e-5, atol=1e-6)
    exact = restored(
        graph,
        [low.index for low in graph.low],
        {(low.index, 1): {"first": W, "second": V}[low.name] for low in graph.low if low.name != "relu"},
    )
    np.testing.assert_allclose(_run(exact)[0], _run(source)[0], rtol=1e-6)


def test_what_overflows_is_read_in_fp32_by_the_next_node_that_is_put_back() -> None:
    source, graph = _typed(factor=2e4)
    assert not np.isfinite(_run(emulated_from_typed(graph.model))[0]).all()
    some = emulated_from_typed(restored(graph, _index(graph, "first", "relu", "second"), {}))
    np.testing.assert_allclose(_run(some)[0], _run(source)[0], rtol=2e-2, atol=1e-2)
    # Put back without its reader, the product is still cast to FP16 on the way.
    alone = emulated_from_typed(restored(graph, _index(graph, "first"), {}))
    assert not np.isfinite(_run(alone)[0]).all()


def test_a_half_output_stays_half() -> None:
    _, graph = _typed(half_io=True)
    some = restored(graph, _index(graph, "second"), {})
    assert some.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    assert _ops(some)["Cast"] == 2


def test_a_node_kept_in_fp32_reads_what_was_put_back_without_a_cast() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Softmax", ["a"], ["s"], name="soft"),
        helper.make_node("MatMul", ["s", "w"], ["y"], name="second"),
    ]
    graph = low_graph(typed_from_onnx(_model(nodes, {"w": W}), "fp16", {}).model, "it")
    assert _ops(graph.model)["Cast"] == 4
    some = restored(graph, _index(graph, "first"), {})
    soft = next(node for node in some.graph.node if node.op_type == "Softmax")
    product = next(node for node in some.graph.node if node.name == "first")
    assert soft.input[0] == product.output[0]
    # The weight that both share is in FP16 for one of them and in FP32 for the other.
    assert sorted(tensor.data_type for tensor in some.graph.initializer) == [1, 10]


def test_the_precision_of_a_graph_is_read_off_it() -> None:
    source, typed = _typed()
    assert precision_of(source) == "fp32"
    assert precision_of(typed.model) == "fp16"
    assert precision_of(_quantised().model) == "int8"
    mixed = typed_from_onnx(_quantised().model, "fp16", {}).model
    assert precision_of(mixed) == "int8"
    assert {each for low in low_graph(mixed, "it").low for each in low.precisions} == {"int8", "fp16"}


def test_a_graph_in_fp32_or_with_integer_kernels_has_nothing_to_put_back() -> None:
    with pytest.raises(ArtifactError, match="it computes in FP32 throughout"):
        low_graph(_typed()[0], "it")
    node = helper.make_node("MatMulInteger", ["xq", "w"], ["i"])
    cast = helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)
    with pytest.raises(ArtifactError, match=r"integer kernels \(MatMulInteger\) and no Q/DQ"):
        low_graph(_model([_pair("x")[0], node, cast], QUANTISED), "it")


@pytest.mark.parametrize(
    ("attributes", "scale", "zero"),
    [
        ({}, np.float32(0.5), None),
        ({}, np.float32([0.5]), np.int8([3])),
        ({"axis": 0}, np.float32([1, 2, 3, 4]), np.int8([0, 1, 0, -1])),
        ({"axis": -1}, np.float32([1, 2, 3, 4, 5, 6]), None),
        ({"axis": 1, "block_size": 2}, RNG.random((4, 3), np.float32), None),
    ],
)
def test_dequantised_weights_are_what_onnx_runtime_gives(
    attributes: dict[str, int], scale: np.ndarray, zero: np.ndarray | None
) -> None:
    values = RNG.integers(-128, 128, (4, 6)).astype(np.int8)
    inputs = [np.asarray(each) for each in (values, scale, zero) if each is not None]
    names = ["q", "s", "z"][: len(inputs)]
    node = helper.make_node("DequantizeLinear", names, ["w"], **attributes)
    model = _model(
        [node, helper.make_node("MatMul", ["x", "w"], ["y"])], dict(zip(names, inputs, strict=True))
    )
    model.opset_import[0].version = 21
    np.testing.assert_allclose(_run(model)[0], X @ dequantised(node, inputs), rtol=1e-4, atol=1e-4)
