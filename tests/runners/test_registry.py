from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bbx import lazy
from bbx.errors import ArtifactError, UnavailableError, UsageError
from bbx.runners import registry
from bbx.runners.registry import RUNTIMES, availability, open_runner


def test_there_are_these_runtimes() -> None:
    names = [
        "eager",
        "compile",
        "torchscript",
        "pt2",
        "ort-cpu",
        "openvino",
        "ort-cuda",
        "tensorrt",
        "rtx",
        "fake",
    ]
    assert list(RUNTIMES) == names
    assert list(availability()) == names


def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, bbx.runners.registry as r; r.availability()\n"
        "print([m for m in ('torch', 'numpy', 'onnx', 'onnxruntime', 'pydantic', 'tensorrt_rtx')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("runtime", "format"), [("torchscript",) * 2, ("pt2",) * 2, ("ort-cpu", "onnx")])
def test_files_are_opened_by_runtime(
    runtime: str, format: str, signed: Callable[[str], Path], nets: ModuleType
) -> None:
    with open_runner(runtime, signed(format), threads=1) as runner:
        assert runner.name == runtime
        assert runner.threads == 1
        answer = runner.infer(nets.feeds(2))["logits"]
    assert nets.relative(answer, nets.reference(nets.feeds(2))) < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_is_opened_eagerly(precision: Any, built: Any, nets: ModuleType) -> None:
    with open_runner("eager", built, precision=precision) as runner:
        answer = runner.infer(nets.feeds(2))["logits"]
    assert nets.relative(answer, nets.reference(nets.feeds(2))) < (1e-4 if precision == "fp32" else 3e-2)


def test_a_fake_takes_a_model_or_a_manifest(
    built: Any, signed: Callable[[str], Path], files: dict[str, Path], nets: ModuleType
) -> None:
    for subject in (built, signed("onnx")):
        with open_runner("fake", subject) as runner:
            assert runner.infer(nets.feeds(2))["logits"].shape == (2, 10)
    with pytest.raises(ArtifactError, match="no manifest"):
        open_runner("fake", files["onnx"])


def test_an_unknown_runtime_names_the_nearest(built: Any) -> None:
    with pytest.raises(UsageError, match=r"Nearest: .*torchscript"):
        open_runner("torch-script", built)


def test_what_does_not_go_together_is_a_usage_error(built: Any, files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="Name the model"):
        open_runner("eager", files["onnx"])
    with pytest.raises(UsageError, match="Export it first"):
        open_runner("ort-cpu", built)
    with pytest.raises(UsageError, match="These have: eager"):
        open_runner("ort-cpu", files["onnx"], cuda_graph=True)
    with pytest.raises(UsageError, match="int8"):
        open_runner("eager", built, precision="int8")


def test_what_is_hidden_is_unavailable_and_says_how_to_mend_it(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = availability()
    assert not found["rtx"].ok
    assert "CUDA_VISIBLE_DEVICES" in found["rtx"].reason
    assert "unset CUDA_VISIBLE_DEVICES" in found["ort-cuda"].fix
    with pytest.raises(UnavailableError, match="unset CUDA_VISIBLE_DEVICES") as caught:
        open_runner("rtx", files["engine"])
    assert caught.value.exit_code == 5


def test_a_missing_library_and_a_missing_compiler_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in availability()["compile"].reason
    assert availability()["eager"].ok
    monkeypatch.setattr(lazy, "installed", lambda module: module != "torch")
    found = availability()
    assert found["compile"].fix == found["eager"].fix == "Type: pip install torch torchvision"
    assert found["ort-cpu"].ok


def test_every_reason_comes_with_a_fix() -> None:
    for name, found in availability().items():
        assert found.ok != bool(found.reason), name
        assert found.ok != bool(found.fix), name
        assert name in registry.RUNTIMES
