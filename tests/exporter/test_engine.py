"""Real TensorRT-for-RTX builds: what they write, what they refuse, and how they stop."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bbx.errors import ArtifactError, BuildError, Cancelled, UnavailableError, UsageError
from bbx.exporter.engine_options import EngineOptions, InputRange, ShapeProfile, current_target
from bbx.exporter.to_engine import engine_from_onnx
from bbx.exporter.to_typed import typed_from_onnx
from bbx.process import Event, Notice, listening

TARGETS = ("sm_86",)
RNG = np.random.default_rng(0)


def _convnet(path: Path, *, batch: int | str = "batch", depth: int = 2, size: int | str = 16) -> Path:
    nodes, weights, last = [], [], "x"
    for index in range(depth):
        channels = 3 if index == 0 else 32
        weight = (RNG.standard_normal((32, channels, 3, 3)) / np.sqrt(9 * channels)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(
            helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], name=f"conv{index}", pads=[1] * 4)
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], name=f"relu{index}"))
        last = f"r{index}"
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes,
        "convnet",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 32, size, size])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def test_a_build_writes_the_plan_and_reports_what_it_is(tmp_path: Path) -> None:
    events: list[Event | Notice] = []
    out = tmp_path / "net.engine"
    with listening(events.append):
        build = engine_from_onnx(_convnet(tmp_path / "net.onnx"), EngineOptions("rtx", targets=TARGETS), out)
    assert out.stat().st_size == build.plan_bytes > 32 * 32 * 9 * 4
    assert (build.targets, build.left_out) == (TARGETS, ())
    assert build.version.split(".")[0].isdigit()
    (entry,) = build.profiles[0].inputs
    assert (entry.min[0], entry.opt[0], entry.max[0]) == (1, 1, 8)
    assert [layer.node for layer in build.network.compute_layers] == ["conv0", "conv1"]
    assert {layer.dtype for layer in build.network.compute_layers} == {"float32"}
    assert [layer.weight_bytes for layer in build.network.compute_layers] == [32 * 3 * 9 * 4, 32 * 32 * 9 * 4]
    assert set(build.seconds) == {"parse", "build"}
    fractions = [e.fraction for e in events if isinstance(e, Event) and e.stage == "build engine"]
    assert len(fractions) > 3
    assert fractions == sorted(fractions)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    engine_from_onnx(
        _convnet(tmp_path / "net.onnx"), EngineOptions("rtx", targets=TARGETS), tmp_path / "net.engine"
    )
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_a_typed_graph_compiles_in_its_type(tmp_path: Path, precision: str, dtype: str) -> None:
    source = onnx.load(_convnet(tmp_path / "net.onnx"))
    typed = tmp_path / "typed.onnx"
    onnx.save(typed_from_onnx(source, precision, {}).model, typed)
    build = engine_from_onnx(typed, EngineOptions("rtx", targets=TARGETS), tmp_path / "net.engine")
    assert {layer.dtype for layer in build.network.compute_layers} == {dtype}
    assert [spec.dtype for spec in (*build.network.inputs, *build.network.outputs)] == ["float32", "float32"]


@pytest.mark.skipif(current_target() is not None, reason="the default target is this machine's GPU")
def test_default_targets_that_cannot_compile_the_graph_are_left_out_with_a_warning(tmp_path: Path) -> None:
    source = onnx.load(_convnet(tmp_path / "net.onnx"))
    typed = tmp_path / "typed.onnx"
    onnx.save(typed_from_onnx(source, "bf16", {}).model, typed)
    heard: list[Event | Notice] = []
    with listening(heard.append):
        build = engine_from_onnx(typed, EngineOptions("rtx"), tmp_path / "net.engine")
    assert [target for target, _ in build.left_out] == ["sm_75"]
    assert "sm_75" not in build.targets
    assert "sm_86" in build.targets
    assert any(isinstance(entry, Notice) and "sm_75" in entry.text for entry in heard)


def test_a_named_target_that_cannot_compile_the_graph_is_an_error(tmp_path: Path) -> None:
    source = onnx.load(_convnet(tmp_path / "net.onnx"))
    typed, out = tmp_path / "typed.onnx", tmp_path / "net.engine"
    onnx.save(typed_from_onnx(source, "bf16", {}).model, typed)
    with pytest.raises(BuildError, match="sm75") as caught:
        engine_from_onnx(typed, EngineOptions("rtx", targets=("sm_75", "sm_86")), out)
    assert "Leave sm_75 out" in caught.value.hint
    assert not out.exists()


def test_a_static_graph_needs_no_profile(tmp_path: Path) -> None:
    path = _convnet(tmp_path / "net.onnx", batch=2)
    build = engine_from_onnx(path, EngineOptions("rtx", targets=TARGETS), tmp_path / "net.engine")
    assert build.profiles == ()
    assert build.network.inputs[0].shape == (2, 3, 16, 16)


def test_a_dynamic_size_takes_the_profile_that_is_given(tmp_path: Path) -> None:
    path = _convnet(tmp_path / "net.onnx", size="size")
    profile = ShapeProfile((InputRange("x", (1, 3, 8, 8), (1, 3, 16, 16), (2, 3, 32, 32)),))
    options = EngineOptions("rtx", targets=TARGETS, profiles=(profile,), workspace_bytes=1 << 28)
    assert engine_from_onnx(path, options, tmp_path / "net.engine").profiles == (profile,)
    with pytest.raises(UsageError, match="dynamic beyond the batch"):
        engine_from_onnx(path, EngineOptions("rtx", targets=TARGETS), tmp_path / "net.engine")


def test_a_profile_for_another_input_is_an_error(tmp_path: Path) -> None:
    profile = ShapeProfile((InputRange("picture", (1,), (1,), (1,)),))
    options = EngineOptions("rtx", targets=TARGETS, profiles=(profile,))
    with pytest.raises(UsageError, match="picture"):
        engine_from_onnx(_convnet(tmp_path / "net.onnx"), options, tmp_path / "net.engine")


def test_an_operator_that_cannot_be_parsed_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="fine"),
        helper.make_node("NonZero", ["r"], ["y"], name="culprit"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [2, "n"])],
    )
    path, out = tmp_path / "graph.onnx", tmp_path / "net.engine"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    with pytest.raises(BuildError, match=r"'culprit', operator NonZero"):
        engine_from_onnx(path, EngineOptions("rtx", targets=TARGETS), out)
    assert not out.exists()


def test_a_truncated_graph_is_an_error(tmp_path: Path) -> None:
    path = _convnet(tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ArtifactError):
        engine_from_onnx(path, EngineOptions("rtx", targets=TARGETS), tmp_path / "net.engine")


def test_external_data_outside_the_folder_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    path = _convnet(tmp_path / "inside" / "net.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights"
    (tmp_path / "inside" / "weights").rename(tmp_path / "weights")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="outside its own folder"):
        engine_from_onnx(path, EngineOptions("rtx", targets=TARGETS), tmp_path / "net.engine")


@pytest.mark.skipif(current_target() is not None, reason="a machine with a GPU can do it")
def test_refit_without_a_gpu_says_what_is_missing_or_works(tmp_path: Path) -> None:
    options = EngineOptions("rtx", targets=TARGETS, refit=True, strip=True)
    out = tmp_path / "net.engine"
    with pytest.raises(UnavailableError, match="needs a GPU"):
        engine_from_onnx(_convnet(tmp_path / "net.onnx"), options, out)
    assert not out.exists()


def test_an_interrupt_stops_the_native_build(tmp_path: Path) -> None:
    path, out = _convnet(tmp_path / "net.onnx", depth=12), tmp_path / "net.engine"
    before = signal.getsignal(signal.SIGINT)
    steps: list[str] = []

    def interrupt(event: Event | Notice) -> None:
        if isinstance(event, Event) and event.stage == "build engine" and event.fraction:
            steps.append(event.detail)
            if len(steps) == 2:
                os.kill(os.getpid(), signal.SIGINT)

    with listening(interrupt), pytest.raises(Cancelled):
        engine_from_onnx(path, EngineOptions("rtx", targets=TARGETS), out)
    assert len(steps) <= 4, "the build went on after the interrupt"
    assert not out.exists()
    assert signal.getsignal(signal.SIGINT) is before
    engine_from_onnx(path, EngineOptions("rtx", targets=TARGETS), out)
    assert out.exists()
