"""The precision proof: honest engines pass, engines that ignore the request do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bbx.exporter.engine_options import EngineOptions
from bbx.exporter.network_facts import LayerFacts, NetworkFacts
from bbx.exporter.plan_weights import PlanWeights, weights_in_plan
from bbx.exporter.precision import PrecisionProof, precision_proof
from bbx.exporter.to_engine import engine_from_onnx
from bbx.exporter.to_typed import typed_from_onnx
from bbx.types import Precision

RNG = np.random.default_rng(0)
DTYPE = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def _net() -> ModelProto:
    def weight(*shape: int) -> np.ndarray:
        fan_in = np.prod(shape[1:])
        return (RNG.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], name="conv0", pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"], name="relu0"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="conv1", pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c1"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w2"], ["y"], name="classifier", transB=1),
    ]
    weights = {"w0": weight(64, 3, 3, 3), "w1": weight(64, 64, 3, 3), "w2": weight(256, 64)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 256])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _proof(tmp_path: Path, model: ModelProto, requested: Precision, **options: object) -> PrecisionProof:
    path, out = tmp_path / "net.onnx", tmp_path / "net.engine"
    onnx.save(model, path)
    build = engine_from_onnx(path, EngineOptions("rtx", targets=("sm_86",)), out)
    return precision_proof(requested, build.network, weights_in_plan(model, out.read_bytes()), **options)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_honest_engine_passes(tmp_path: Path, precision: Precision) -> None:
    model = _net() if precision == "fp32" else typed_from_onnx(_net(), precision, {}).model
    proof = _proof(tmp_path, model, precision)
    assert (proof.verdict, proof.reasons) == ("pass", ())
    assert set(proof.achieved) == {DTYPE[precision]}
    assert proof.achieved[DTYPE[precision]]["layers"] == 3
    size = 4 if precision == "fp32" else 2
    assert proof.achieved[DTYPE[precision]]["weight_bytes"] >= 64 * 64 * 9 * size
    assert "found in the plan" in proof.evidence


@pytest.mark.parametrize("requested", ["fp16", "bf16", "int8", "fp8"])
def test_a_graph_that_ignores_the_request_fails(tmp_path: Path, requested: Precision) -> None:
    proof = _proof(tmp_path, _net(), requested)
    assert proof.verdict == "fail"
    assert proof.achieved.keys() == {"float32"}
    assert any("3 of 3 compute layers" in reason for reason in proof.reasons)
    assert any("weight bytes" in reason for reason in proof.reasons)


def test_fp16_where_fp32_was_asked_fails(tmp_path: Path) -> None:
    assert _proof(tmp_path, typed_from_onnx(_net(), "fp16", {}).model, "fp32").verdict == "fail"


def test_fp16_is_not_bf16(tmp_path: Path) -> None:
    assert _proof(tmp_path, typed_from_onnx(_net(), "fp16", {}).model, "bf16").verdict == "fail"


def _half_and_half() -> ModelProto:
    """The classifier and the first convolution in FP16, the convolution with most weights in FP32."""
    model = typed_from_onnx(_net(), "fp16", {}).model
    full = {tensor.name: tensor for tensor in _net().graph.initializer}
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "w1")
    weight.CopyFrom(full["w1"])
    nodes = list(model.graph.node)
    (middle,) = (node for node in nodes if node.name == "conv1")
    place = nodes.index(middle)
    middle.input[0], middle.output[0] = "r0_full", "c1_full"
    nodes.insert(place + 1, helper.make_node("Cast", ["c1_full"], ["c1"], to=TensorProto.FLOAT16))
    nodes.insert(place, helper.make_node("Cast", ["r0"], ["r0_full"], to=TensorProto.FLOAT))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def test_a_half_converted_graph_fails_and_names_the_layer(tmp_path: Path) -> None:
    proof = _proof(tmp_path, _half_and_half(), "fp16")
    assert proof.verdict == "fail"
    assert any("conv1 (float32)" in reason for reason in proof.reasons)
    assert proof.achieved["float16"]["layers"] == 2


def test_a_kept_layer_excuses_itself_but_not_most_of_the_weights() -> None:
    network = _network(("a", "float16", 10), ("b", "float16", 10), ("c", "float32", 50))
    proof = precision_proof("fp16", network, kept=["c"])
    assert proof.verdict == "fail"
    assert all("weight bytes" in reason for reason in proof.reasons)


def _network(*layers: tuple[str, str, int]) -> NetworkFacts:
    made = (LayerFacts(name, name, "CONVOLUTION", dtype, size) for name, dtype, size in layers)
    return NetworkFacts((), (), tuple(made))


def test_a_kept_layer_is_excused() -> None:
    network = _network(("a", "float16", 100), ("b", "float16", 100), ("c", "float32", 50))
    assert precision_proof("fp16", network, kept=["c"]).verdict == "pass"
    assert precision_proof("fp16", network).verdict == "fail"


def test_keeping_everything_is_no_excuse() -> None:
    network = _network(("a", "float32", 100), ("b", "float32", 100))
    assert precision_proof("fp16", network, kept=["a", "b"]).verdict == "fail"


def test_the_rest_of_an_int8_network_may_be_16_bit_but_not_fp32() -> None:
    assert precision_proof("int8", _network(("a", "int8", 9), ("b", "float16", 1))).verdict == "pass"
    assert precision_proof("int8", _network(("a", "int8", 9), ("b", "float32", 1))).verdict == "fail"


def test_a_plan_that_contradicts_its_network_fails() -> None:
    network = _network(("a", "float16", 100))
    assert precision_proof("fp16", network, PlanWeights({"float32": 200}, 0)).verdict == "fail"


def test_a_stripped_plan_is_judged_by_its_network() -> None:
    proof = precision_proof("fp16", _network(("a", "float16", 100)), None)
    assert proof.verdict == "pass"
    assert proof.achieved == {"float16": {"layers": 1, "weight_bytes": 100}}
    assert "found in the plan" not in proof.evidence.replace("none were found in the plan", "")


def test_a_network_without_compute_layers_proves_nothing_but_fp32() -> None:
    assert precision_proof("fp32", _network()).verdict == "pass"
    assert precision_proof("fp16", _network()).verdict == "fail"


def test_weights_are_found_in_any_order_and_encoding() -> None:
    model = _net()
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    plan = b"".join(
        [
            b"head" * 5,
            weights["w0"].tobytes(),
            weights["w1"].astype(np.float16).transpose(0, 2, 3, 1).tobytes(),
            weights["w2"].T.tobytes(),
        ]
    )
    found = weights_in_plan(model, plan)
    assert found.found == {"float32": weights["w0"].nbytes + weights["w2"].nbytes, "float16": 64 * 64 * 9 * 2}
    assert found.missing == 0


def test_weights_that_are_not_there_are_missing() -> None:
    model = _net()
    total = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert weights_in_plan(model, RNG.bytes(1 << 16)) == PlanWeights({}, total)
    assert weights_in_plan(model, b"") == PlanWeights({}, total)
