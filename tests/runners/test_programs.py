"""TorchScript, pt2 and ONNX files that are missing, foreign, broken or dangerous."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from bbx.artifact import manifest_path
from bbx.errors import ArtifactError, BbxError, UsageError
from bbx.runners.ort import OrtRunner
from bbx.runners.torchscript import Pt2Runner, TorchScriptRunner
from bbx.types import TensorSpec

PROGRAMS: dict[str, Any] = {"torchscript": TorchScriptRunner, "pt2": Pt2Runner}


@pytest.mark.parametrize("format", PROGRAMS)
def test_a_signed_program_runs_by_its_manifest(
    format: str, signed: Callable[[str], Path], nets: ModuleType
) -> None:
    with PROGRAMS[format](signed(format)) as runner:
        assert runner.inputs == nets.INPUTS
        answer = runner.infer(nets.feeds(3))["logits"]
    assert nets.relative(answer, nets.reference(nets.feeds(3))) < 1e-4


@pytest.mark.parametrize("format", PROGRAMS)
def test_a_foreign_program_is_not_loaded(
    format: str, files: dict[str, Path], state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object, **__: object) -> None:
        pytest.fail("the program was loaded")

    monkeypatch.setattr(torch.jit, "load", loaded)
    monkeypatch.setattr(torch.export, "load", loaded)
    with pytest.raises(ArtifactError, match="--trust"), PROGRAMS[format](files[format]):
        pass


@pytest.mark.parametrize("format", PROGRAMS)
def test_a_program_changed_after_signing_is_not_loaded(format: str, signed: Callable[[str], Path]) -> None:
    path = signed(format)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="changed after bbx made it"), PROGRAMS[format](path):
        pass


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
@pytest.mark.parametrize("format", PROGRAMS)
def test_a_broken_program_gets_one_line(
    format: str, damage: str, files: dict[str, Path], tmp_path: Path, nets: ModuleType
) -> None:
    whole = files[format].read_bytes()
    path = tmp_path / f"broken.{format}"
    path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}[damage])
    runner = PROGRAMS[format](path, nets.INPUTS, nets.OUTPUTS, trust=True)
    with pytest.raises(ArtifactError, match="truncated") as caught, runner:
        pass
    assert "\n" not in str(caught.value)


def test_torchscript_without_a_description_says_how_to_get_one(files: dict[str, Path]) -> None:
    with (
        pytest.raises(ArtifactError, match="bbx export"),
        TorchScriptRunner(files["torchscript"], trust=True),
    ):
        pass


def test_torchscript_takes_inputs_and_outputs_together_or_neither(
    files: dict[str, Path], nets: ModuleType
) -> None:
    with pytest.raises(UsageError, match="together"):
        TorchScriptRunner(files["torchscript"], nets.INPUTS)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_a_frozen_torchscript_file_runs_too(tmp_path: Path, nets: ModuleType) -> None:
    path = tmp_path / "frozen.torchscript"
    traced = torch.jit.trace(nets.net(), torch.zeros(1, 3, 32, 32))
    torch.jit.freeze(traced).save(str(path))
    with TorchScriptRunner(path, nets.INPUTS, nets.OUTPUTS, trust=True) as runner:
        answer = runner.infer(nets.feeds(2))["logits"]
    assert nets.relative(answer, nets.reference(nets.feeds(2))) < 1e-4


def test_pt2_without_a_manifest_describes_itself(files: dict[str, Path], nets: ModuleType) -> None:
    with Pt2Runner(files["pt2"], trust=True) as runner:
        assert [(spec.dtype, spec.shape) for spec in runner.inputs] == [("float32", (None, 3, 32, 32))]
        assert runner.outputs == (TensorSpec("output_0", "float32", (None, 10)),)
        given = nets.feeds(2)
        answer = runner.infer({runner.inputs[0].name: given["images"]})["output_0"]
    assert nets.relative(answer, nets.reference(given)) < 1e-4


@pytest.mark.parametrize("name", ["torchscript", "pt2", "ort"])
def test_nothing_is_read_before_the_runner_is_entered(name: str, tmp_path: Path, nets: ModuleType) -> None:
    missing = tmp_path / "missing"
    runner = OrtRunner(missing) if name == "ort" else PROGRAMS[name](missing, trust=True)
    with pytest.raises(ArtifactError, match="no file"), runner:
        pass


def test_a_bad_manifest_is_an_error(signed: Callable[[str], Path]) -> None:
    path = signed("torchscript")
    manifest_path(path).write_text("{}")
    with pytest.raises(ArtifactError, match="manifest"), TorchScriptRunner(path):
        pass


def test_a_truncated_graph_is_an_artifact_error(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    whole = files["onnx"].read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="truncated") as caught, OrtRunner(path):
        pass
    assert "\n" not in str(caught.value)


def _graph(path: Path, nodes: list[onnx.NodeProto], kind: int, shape: list[int | str]) -> Path:
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", kind, shape)],
        [onnx.helper.make_tensor_value_info("y", kind, None)],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("elsewhere", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_an_unknown_operator_is_an_artifact_error(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Teleport", ["x"], ["y"], domain="elsewhere")
    path = _graph(tmp_path / "odd.onnx", [node], onnx.TensorProto.FLOAT, [1])
    with pytest.raises(ArtifactError, match="Teleport"), OrtRunner(path):
        pass


def test_external_data_outside_the_folder_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(files["onnx"])
    onnx.save_model(
        model, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0
    )
    with OrtRunner(tmp_path / "net.onnx") as runner:
        assert runner.outputs[0].name == "logits"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "net.data").rename(tmp_path / "elsewhere" / "net.data")
    (tmp_path / "net.data").symlink_to(tmp_path / "elsewhere" / "net.data")
    with pytest.raises(ArtifactError, match=r"net\.data"), OrtRunner(tmp_path / "net.onnx"):
        pass


def test_a_failure_at_run_time_is_one_line(tmp_path: Path) -> None:
    shape = onnx.helper.make_tensor("to", onnx.TensorProto.INT64, [2], [3, 5])
    nodes = [
        onnx.helper.make_node("Constant", [], ["to"], value=shape),
        onnx.helper.make_node("Reshape", ["x", "to"], ["y"]),
    ]
    path = _graph(tmp_path / "reshape.onnx", nodes, onnx.TensorProto.FLOAT, ["n"])
    with OrtRunner(path) as runner:
        assert runner.infer({"x": np.zeros(15, np.float32)})["y"].shape == (3, 5)
        with pytest.raises(BbxError, match="ONNX Runtime failed") as caught:
            runner.infer({"x": np.zeros(14, np.float32)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", "uint8", "int64", "bool", "float64"])
def test_other_dtypes_pass_through_onnx_runtime(dtype: str, tmp_path: Path) -> None:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    path = _graph(tmp_path / "same.onnx", [onnx.helper.make_node("Identity", ["x"], ["y"])], kind, ["n", 3])
    given = {"x": np.arange(6).reshape(2, 3).astype(dtype)}
    with OrtRunner(path) as runner:
        assert runner.inputs == (TensorSpec("x", dtype, (None, 3)),)
        bound = runner.bind(given)
        bound.step()
        assert np.array_equal(bound.outputs()["y"], given["x"])
