"""Typed graphs: right types, few casts, and the same answer, on hand-made edge cases."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bbx.errors import ExportError
from bbx.exporter.emulate import emulated_from_typed
from bbx.exporter.onnx_graph import tensor_infos
from bbx.exporter.onnx_options import FLOAT32_MARK
from bbx.exporter.to_typed import TypedGraph, typed_from_onnx
from bbx.exporter.typed_policy import TensorRange

RNG = np.random.default_rng(0)
HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def _model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray] | None = None,
    *,
    shape: tuple[int | str, ...] = (2, 4),
    outputs: dict[str, int] | None = None,
    opset: int = 20,
    functions: list[onnx.FunctionProto] | None = None,
    domain: str = "own",
) -> ModelProto:
    domains = [helper.make_opsetid("", opset), helper.make_opsetid(domain, 1)]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, t, None) for n, t in (outputs or {"y": TensorProto.FLOAT}).items()],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=domains, ir_version=9, functions=functions or [])
    return onnx.shape_inference.infer_shapes(model)


def _weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _run(model: ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def _check(model: ModelProto, typed: TypedGraph, x: np.ndarray, tolerance: float) -> None:
    """The typed graph runs (BF16 emulated), has the source's inputs and outputs, and answers alike."""
    onnx.checker.check_model(typed.model, full_check=True)
    elements = {info.elem_type for info in tensor_infos(typed.model).values()}
    candidates = [emulated_from_typed(typed.model)]
    if TensorProto.BFLOAT16 not in elements:  # ONNX Runtime has no BF16 kernels
        candidates.append(typed.model)
    for candidate in candidates:
        for want, got in zip(_run(model, x), _run(candidate, x), strict=True):
            assert got.dtype == want.dtype
            error = np.linalg.norm(np.float64(got) - want) / max(np.linalg.norm(np.float64(want)), 1e-9)
            assert error <= tolerance


def _ops(typed: TypedGraph, operator: str) -> list[onnx.NodeProto]:
    return [node for node in typed.model.graph.node if node.op_type == operator]


def _stored(typed: TypedGraph) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in typed.model.graph.initializer}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_change_type_and_casts_stand_only_at_the_borders(precision: str) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "v", ""], ["y"], name="last"),
    ]
    weights = {"w": _weights(8, 3, 3, 3), "b": _weights(8), "v": _weights(4, 8, 1, 1)}
    model = _model(nodes, weights, shape=(1, 3, 8, 8))
    typed = typed_from_onnx(model, precision, {})
    assert _stored(typed) == dict.fromkeys(weights, HALF[precision])
    assert len(_ops(typed, "Cast")) == 2
    assert (typed.kept, typed.converted) == ((), 3)
    infos = tensor_infos(typed.model)
    assert [infos[name].elem_type for name in ("x", "c", "r", "y")] == [
        1,
        HALF[precision],
        HALF[precision],
        1,
    ]
    _check(model, typed, _weights(1, 3, 8, 8), 2e-2 if precision == "bf16" else 2e-3)


def test_the_source_is_not_changed() -> None:
    model = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": _weights(4, 3)})
    before = model.SerializeToString(deterministic=True)
    typed_from_onnx(model, "bf16", {})
    assert model.SerializeToString(deterministic=True) == before


def test_half_io_leaves_no_cast() -> None:
    model = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": _weights(4, 3)})
    typed = typed_from_onnx(model, "fp16", {}, half_io=True)
    assert not _ops(typed, "Cast")
    x = _weights(2, 4)
    (got,) = _run(typed.model, x.astype(np.float16))
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, _run(model, x)[0], atol=1e-2)


def test_a_tensor_is_cast_once_for_all_its_readers() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["x", "w"], ["b"]),
        helper.make_node("Softmax", ["a"], ["s"]),
        helper.make_node("LogSoftmax", ["a"], ["t"]),
        helper.make_node("Sum", ["s", "t", "b"], ["u"]),
        helper.make_node("MatMul", ["u", "v"], ["y"]),
    ]
    model = _model(nodes, {"w": _weights(4, 4), "v": _weights(4, 4)})
    typed = typed_from_onnx(model, "fp16", {})
    casts = [(node.input[0], node.attribute[0].i) for node in _ops(typed, "Cast")]
    assert len(casts) == len(set(casts))
    made = {node.output[0] for node in _ops(typed, "Cast")}
    assert not made & {source for source, _ in casts}, "one cast reads another"
    _check(model, typed, _weights(2, 4), 3e-3)


def test_sensitive_operators_stay_in_fp32_with_their_reasons() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Softmax", ["a"], ["s"], name="soft"),
        helper.make_node("MatMul", ["s", "w"], ["b"], name="second"),
        helper.make_node("LayerNormalization", ["b", "g"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "w"], ["y"], name="third"),
    ]
    model = _model(nodes, {"w": _weights(4, 4), "g": _weights(4)})
    typed = typed_from_onnx(model, "fp16", {})
    assert [(node.name, node.op_type) for node in typed.kept] == [
        ("soft", "Softmax"),
        ("norm", "LayerNormalization"),
    ]
    assert all(node.reason for node in typed.kept)
    assert _stored(typed) == {"w": TensorProto.FLOAT16, "g": TensorProto.FLOAT}
    _check(model, typed, _weights(2, 4), 5e-3)


def test_a_weight_that_both_types_read_is_stored_in_both() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Pow", ["a", "w"], ["p"], name="pow"),
        helper.make_node("MatMul", ["p", "w"], ["y"]),
    ]
    model = _model(nodes, {"w": np.abs(_weights(4, 4))}, shape=(4, 4))
    typed = typed_from_onnx(model, "fp16", {})
    assert _stored(typed) == {"w": TensorProto.FLOAT, "w_fp16": TensorProto.FLOAT16}
    _check(model, typed, np.abs(_weights(4, 4)), 5e-3)


def _range(absmax: float, underflow: float = 0.0) -> TensorRange:
    return TensorRange(-absmax, absmax, absmax, underflow, underflow, finite=True)


@pytest.mark.parametrize(
    ("seen", "precision", "kept"),
    [
        (_range(60000), "fp16", True),
        (_range(100), "fp16", False),
        (_range(1e-7, underflow=0.9), "fp16", True),
        (TensorRange(-np.inf, np.inf, np.inf, 0, 0, finite=False), "fp16", True),
        (_range(60000), "bf16", False),
    ],
)
def test_measured_ranges_decide(seen: TensorRange, precision: str, kept: bool) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w"], ["y"], name="last"),
    ]
    model = _model(nodes, {"w": _weights(4, 4)})
    typed = typed_from_onnx(model, precision, {"a": seen})
    assert ("first" in {node.name for node in typed.kept}) is kept
    assert all("a " in node.reason or "between" in node.reason or "%" in node.reason for node in typed.kept)


@pytest.mark.parametrize(("value", "fragment"), [(1e6, "overflows"), (1e-12, "changes it by")])
def test_constants_that_do_not_fit_keep_their_node(value: float, fragment: str) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "k"], ["m"], name="scale"),
        helper.make_node("Div", ["m", "k"], ["y"], name="back"),
    ]
    model = _model(nodes, {"w": _weights(4, 4), "k": np.float32(value)})
    typed = typed_from_onnx(model, "fp16", {})
    reasons = {node.name: node.reason for node in typed.kept}
    assert fragment in reasons["scale"]
    _check(model, typed, _weights(2, 4), 2e-3)


def test_a_tiny_bias_does_not_keep_its_convolution() -> None:
    weights = {"w": _weights(8, 3, 3, 3), "b": _weights(8) * np.float32(1e-9)}
    weights["added"] = np.full((8, 1, 1), 1e-9, np.float32)
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"]), helper.make_node("Add", ["c", "added"], ["y"])]
    model = _model(nodes, weights, shape=(1, 3, 8, 8))
    assert typed_from_onnx(model, "fp16", {}).kept == ()


def test_shape_arithmetic_and_resize_sizes_keep_their_types() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Shape", ["c"], ["s"]),
        helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT, name="shape_cast"),
        helper.make_node("Mul", ["f", "k"], ["g"], name="shape_mul"),
        helper.make_node("Floor", ["g"], ["h"], name="shape_floor"),
        helper.make_node("Cast", ["h"], ["sizes"], to=TensorProto.INT64),
        helper.make_node("Resize", ["c", "", "", "sizes"], ["y"], mode="linear"),
    ]
    weights = {"w": _weights(4, 3, 1, 1), "k": np.float32([1, 1, 2, 2])}
    model = _model(nodes, weights, shape=("n", 3, 6, 6))
    typed = typed_from_onnx(model, "fp16", {})
    assert {node.reason for node in typed.kept} == {"computes shapes"}
    assert _stored(typed) == {"w": TensorProto.FLOAT16, "k": TensorProto.FLOAT}
    _check(model, typed, _weights(2, 3, 6, 6), 2e-3)


def test_resize_scales_stay_float32_while_the_image_does_not() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Resize", ["c", "", "scales"], ["y"], mode="nearest"),
    ]
    weights = {"w": _weights(4, 3, 1, 1), "scales": np.float32([1, 1, 2, 2])}
    model = _model(nodes, weights, shape=(1, 3, 6, 6))
    for precision in ("fp16", "bf16"):
        typed = typed_from_onnx(model, precision, {})
        assert typed.kept == ()
        assert _stored(typed)["scales"] == TensorProto.FLOAT
        _check(model, typed, _weights(1, 3, 6, 6), 1e-2)


def test_constants_in_nodes_and_clip_bounds() -> None:
    nodes = [
        helper.make_node("Constant", [], ["low"], value_float=0.0),
        helper.make_node("Constant", [], ["high"], value=numpy_helper.from_array(np.float32(6))),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Clip", ["a", "low", "high"], ["y"]),
    ]
    model = _model(nodes, {"w": _weights(4, 4)})
    typed = typed_from_onnx(model, "fp16", {})
    assert set(_stored(typed).values()) == {TensorProto.FLOAT16}
    assert typed.kept == ()
    _check(model, typed, _weights(2, 4), 2e-3)


def test_subgraphs_stay_in_fp32_and_see_fp32_from_outside() -> None:
    def branch(name: str, operator: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [2, 4])
        return helper.make_graph(
            [helper.make_node(operator, ["a", "w"], [f"{name}_out"])], name, [], [output]
        )

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="before"),
        helper.make_node("ReduceMax", ["a"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["flag"]),
        helper.make_node(
            "If",
            ["flag"],
            ["i"],
            name="if",
            then_branch=branch("t", "MatMul"),
            else_branch=branch("e", "MatMul"),
        ),
        helper.make_node("MatMul", ["i", "w"], ["y"], name="after"),
    ]
    model = _model(nodes, {"w": _weights(4, 4), "zero": np.float32(0)})
    typed = typed_from_onnx(model, "fp16", {})
    assert [(node.op_type, node.reason) for node in typed.kept] == [("If", "holds a subgraph")]
    infos = tensor_infos(typed.model)
    assert (infos["a"].elem_type, infos["w"].elem_type) == (TensorProto.FLOAT, TensorProto.FLOAT)
    onnx.checker.check_model(typed.model, full_check=True)
    x = _weights(2, 4)
    np.testing.assert_allclose(_run(typed.model, x)[0], _run(model, x)[0], rtol=2e-2, atol=5e-2)


def test_local_functions_are_inlined() -> None:
    function = helper.make_function(
        "own",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 20)],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Twice", ["a"], ["t"], domain="own"),
        helper.make_node("MatMul", ["t", "w"], ["y"]),
    ]
    model = _model(nodes, {"w": _weights(4, 4)}, functions=[function])
    typed = typed_from_onnx(model, "fp16", {})
    assert not typed.model.functions
    assert (typed.kept, typed.converted) == ((), 3)
    _check(model, typed, _weights(2, 4), 3e-3)


def test_casts_that_were_there_do_not_play_ping_pong() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Cast", ["a"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    model = _model(nodes, {"w": _weights(4, 4)})
    typed = typed_from_onnx(model, "fp16", {})
    assert len(_ops(typed, "Cast")) == 2, "one at each border of the graph"
    _check(model, typed, _weights(2, 4), 3e-3)


def test_doubles_become_singles_inside() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("MatMul", ["d", "w"], ["e"]),
        helper.make_node("Cast", ["e"], ["y"], to=TensorProto.FLOAT),
    ]
    model = _model(nodes, {"w": _weights(4, 4).astype(np.float64)})
    typed = typed_from_onnx(model, "fp16", {})
    assert _stored(typed) == {"w": TensorProto.FLOAT16}
    _check(model, typed, _weights(2, 4), 2e-3)


def test_quantised_weights_stay_and_their_scales_change_type() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "zp"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "zp"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "ws"], ["wd"], axis=1),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    weights = {
        "xs": np.float32(0.05),
        "zp": np.int8(0),
        "wq": RNG.integers(-127, 127, (4, 3), dtype=np.int8),
        "ws": np.float32([0.01, 0.02, 0.03]),
    }
    model = _model(nodes, weights, opset=13)
    typed = typed_from_onnx(model, "fp16", {})
    stored = _stored(typed)
    assert (stored["wq"], stored["ws"], stored["xs"]) == (
        TensorProto.INT8,
        TensorProto.FLOAT16,
        TensorProto.FLOAT16,
    )
    assert tensor_infos(typed.model)["wd"].elem_type == TensorProto.FLOAT16
    _check(model, typed, _weights(2, 4), 3e-2)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_old_opsets_are_raised(precision: str) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Clip", ["n"], ["k"], min=0.0, max=6.0),
        helper.make_node("ReduceMean", ["k"], ["r"], axes=[2, 3]),
        helper.make_node("Squeeze", ["r"], ["y"], axes=[2, 3]),
    ]
    weights = {"w": _weights(4, 3, 3, 3)} | {name: np.abs(_weights(4)) for name in "sbmv"}
    model = _model(nodes, weights, shape=(2, 3, 8, 8), opset=9)
    typed = typed_from_onnx(model, precision, {})
    assert typed.model.opset_import[0].version == (22 if precision == "bf16" else 13)
    assert set(_stored(typed)) >= {"w"}
    _check(model, typed, _weights(2, 3, 8, 8), 2e-2)


@pytest.mark.parametrize("opset", [9, 20])
def test_large_weights_that_are_inputs_too_become_weights(opset: int) -> None:
    """As in every graph of the first years, where initialisers had to be inputs."""
    model = _model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": _weights(64, 64)}, shape=(2, 64), opset=opset
    )
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (64, 64)))
    typed = typed_from_onnx(model, "fp16", {})
    assert [value.name for value in typed.model.graph.input] == ["x"]
    assert _stored(typed) == {"w": TensorProto.FLOAT16}
    _check(model, typed, _weights(2, 64), 5e-3)


@pytest.mark.parametrize("opset", [11, 20])
@pytest.mark.parametrize("linear", [True, False])
def test_sparse_weights_become_ordinary_ones(opset: int, linear: bool) -> None:
    dense = np.zeros((4, 3), np.float32)
    dense[[0, 2, 3], [1, 0, 2]] = (1.5, -2.0, 0.25)
    model = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": dense}, opset=opset)
    wanted = ModelProto()
    wanted.CopyFrom(model)
    del model.graph.initializer[:]
    values = numpy_helper.from_array(dense[np.nonzero(dense)], "w")
    places = np.flatnonzero(dense) if linear else np.argwhere(dense)
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(places.astype(np.int64)), [4, 3])
    model.graph.sparse_initializer.append(sparse)
    typed = typed_from_onnx(model, "fp16", {})
    assert not typed.model.graph.sparse_initializer
    assert _stored(typed) == {"w": TensorProto.FLOAT16}
    _check(wanted, typed, _weights(2, 4), 2e-3)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_the_exporter_marked_stays_in_fp32_at_any_opset(precision: str) -> None:
    marked = helper.make_node("MatMul", ["c", "w"], ["a"], name="boxes")
    marked.metadata_props.add(key=FLOAT32_MARK, value="works on boxes")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["c"], name="convolution"),
        marked,
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    typed = typed_from_onnx(_model(nodes, {"w": _weights(4, 4)}, opset=20), precision, {})
    assert {node.name: node.reason for node in typed.kept}["boxes"] == "works on boxes"
    types = tensor_infos(typed.model)
    assert types["a"].elem_type == TensorProto.FLOAT
    [half] = [node.output[0] for node in typed.model.graph.node if node.name == "convolution"]
    assert types[half].elem_type == HALF[precision]


def test_integer_results_and_unknown_operators_survive() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("ArgMax", ["a"], ["best"], axis=1),
        helper.make_node("Gelu", ["a"], ["y"], domain="com.microsoft", name="foreign"),
    ]
    outputs = {"y": TensorProto.FLOAT, "best": TensorProto.INT64}
    model = _model(nodes, {"w": _weights(4, 4)}, outputs=outputs, domain="com.microsoft")
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4]))
    typed = typed_from_onnx(model, "fp16", {})
    assert {node.name: node.reason for node in typed.kept} == {"foreign": "not a standard ONNX operator"}


def test_a_graph_without_standard_operators_is_an_error() -> None:
    model = _model([helper.make_node("Relu", ["x"], ["y"])])
    del model.opset_import[:]
    with pytest.raises(ExportError, match="imports no standard operator set"):
        typed_from_onnx(model, "fp16", {})
