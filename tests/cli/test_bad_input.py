"""Bad input: one clear line, the right exit code, nothing left behind."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from bbx.artifact import manifest_path, read_manifest, sha256_of
from bbx.exporter.engine_options import current_target

RANDOM = ("--weights", "random")
RTX = ("--flavor", "rtx", "--target", "sm_86")


@pytest.fixture
def refused(bbx: Any, tmp_path: Path) -> Callable[..., str]:
    """Run a command that must fail, and give the one line that it writes."""

    def run(code: int, *words: Any) -> str:
        answer = bbx(*words, "-q", "-o", tmp_path / "out")
        assert answer.code == code, answer.stderr
        assert answer.stderr.count("\n") == 1, answer.stderr
        left = [
            path for path in (tmp_path / "out").rglob("*") if path.suffix in (".onnx", ".engine", ".json")
        ]
        assert left == []
        error: str = answer.error
        return error

    return run


# --- models and options -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (1, ("resnet51",), "resnet50"),
        (1, ("torchvision:resnet51",), "resnet50"),
        (1, ("timm:resnet5O",), "resnet50"),
        (1, ("no_such_package.nets:make",), "no_such_package"),
        (1, ("vgg16", "--image-size", 8), "Type: --image-size 32, or more."),
        (1, ("vit_b_16", "--image-size", 30), "multiple of 16"),
        (1, ("resnet18", "--image-size", 0), "--image-size"),
        (1, ("resnet18", "--num-classes", 0), "--num-classes"),
        (2, ("resnet18", "--head", "none", "--num-classes", 3), "Leave out --num-classes"),
        (2, ("resnet18", "--head", "conv"), "linear"),
        (2, ("resnet18", "--image-size", "large"), "image-size"),
    ],
)
def test_a_model_that_cannot_be(refused: Any, code: int, words: tuple[Any, ...], said: str) -> None:
    assert said in refused(code, "export", *words, *RANDOM)


# --- checkpoints ------------------------------------------------------------------------------------


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_checkpoint_that_runs_code_does_not_run(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": _Evil(tmp_path / "ran")}))
    error = refused(1, "export", "resnet18", "--weights", tmp_path / "evil.pth")
    assert "could run code" in error
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".txt"])
def test_a_checkpoint_that_is_none(refused: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"hello, world" * 10)
    assert str(path) in refused(1, "export", "resnet18", "--weights", path)
    assert "There is no checkpoint" in refused(1, "export", "resnet18", "--weights", tmp_path / "no.pth")


# --- graphs -----------------------------------------------------------------------------------------


def _matmul(path: Path, location: str | None = None, kind: int = TensorProto.FLOAT) -> Path:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], bytes(64), raw=True)
    if location is not None:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
    values = [helper.make_tensor_value_info(name, kind, [1, 4]) for name in "xy"]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weight])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


@pytest.mark.parametrize(
    "command", [("export", "--fp16"), ("build-trt", *RTX), ("bench", "--runtime", "ort-cpu")]
)
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing"])
def test_a_graph_that_is_none(bbx: Any, tmp_path: Path, command: tuple[str, ...], damage: str) -> None:
    path = _matmul(tmp_path / "net.onnx")
    whole = path.read_bytes()
    path.write_bytes(
        {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}.get(damage, whole)
    )
    if damage == "missing":
        path.unlink()
    verb, *options = command
    answer = bbx(verb, path, *options, "--json", "-q", "-o", tmp_path / "out")
    if verb == "bench" and damage != "missing":
        [row] = answer.document["results"]
        assert (row["verdict"], row["latency_ns"]) == ("failed", None)
        assert "not an ONNX graph" in row["reasons"][0]["text"]
        return
    assert answer.code == 1
    assert ("There is no file" if damage == "missing" else "not an ONNX graph") in answer.error
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("export", "--fp16"), ("build-trt", *RTX)])
@pytest.mark.parametrize("kind", ["absolute", "parent", "symlink", "hard link"])
def test_a_graph_with_data_outside_its_folder(
    refused: Any, tmp_path: Path, command: tuple[str, ...], kind: str
) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "model"
    secret.write_bytes(bytes(64))
    folder.mkdir()
    location = {"absolute": str(secret), "parent": "../secret"}.get(kind, "net.data")
    path = _matmul(folder / "net.onnx", location)
    if kind == "symlink":
        (folder / "net.data").symlink_to(secret)
    if kind == "hard link":
        (folder / "net.data").hardlink_to(secret)
    verb, *options = command
    error = refused(1, verb, path, *options)
    assert "'w'" in error
    assert "outside its own folder" in error or "not a regular file" in error


def test_a_graph_of_strings(refused: Any) -> None:
    data = Path(onnx.__file__).parent / "backend" / "test" / "data" / "simple"
    path = data / "test_strnorm_model_monday_casesensintive_lower" / "model.onnx"
    assert "model.onnx" in refused(1, "build-trt", path, *RTX)
    assert "string" in refused(1, "export", path, "--fp16").lower()


def test_options_that_come_too_late_for_a_graph(refused: Any, tmp_path: Path) -> None:
    path = _matmul(tmp_path / "net.onnx")
    assert "--seed comes too late" in refused(2, "build-trt", path, *RTX, "--seed", 3)
    assert "FP32 export already" in refused(2, "export", path)


# --- folders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["file/in", "/proc/nowhere", "x" * 300])
def test_a_folder_that_cannot_be_written(bbx: Any, in_nets_folder: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").touch()
    answer = bbx("export", "sample_nets:tiny", "-f", "torchscript", "-q", "-o", tmp_path / out)
    assert answer.code == 1
    assert "cannot be written" in answer.error
    assert "--out" in answer.error
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize("format", ["onnx", "torchscript", "pt2"])
def test_a_file_that_may_not_grow(bbx: Any, tmp_path: Path, format: str) -> None:
    ask = (
        "export",
        "timm:test_resnet",
        "--image-size",
        64,
        *RANDOM,
        "-f",
        format,
        "-q",
        "-o",
        tmp_path / "out",
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        answer = bbx(*ask)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert answer.code == 6, answer.stderr
    assert "No space left to write" in answer.error
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def full_disk(tmp_path: Path) -> Any:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("format", ["onnx", "torchscript", "pt2"])
def test_a_full_disk(bbx: Any, full_disk: Path, format: str) -> None:
    ask = ("export", "timm:test_resnet", "--image-size", 64, *RANDOM, "-f", format, "-q", "-o", full_disk)
    answer = bbx(*ask)
    assert answer.code == 6, answer.stderr
    assert "No space left to write" in answer.error
    assert list(full_disk.iterdir()) == []


# --- programs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
@pytest.mark.parametrize("tampering", ["no manifest", "changed", "forged"])
def test_a_foreign_program_is_refused(
    bbx: Any, in_nets_folder: Path, tmp_path: Path, format: str, tampering: str
) -> None:
    made = bbx("export", "sample_nets:tiny", "-f", format, "--json", "-q", "-o", tmp_path / "net")
    path = Path(made.document["artifact"])
    manifest = read_manifest(path)
    assert manifest is not None
    path.write_bytes(path.read_bytes() + b"\0")
    if tampering == "no manifest":
        manifest_path(path).unlink()
    if tampering == "forged":
        forged = manifest.model_copy(update={"sha256": sha256_of(path)})
        manifest_path(path).write_text(forged.to_json())
    [row] = bbx("bench", path, "--runtime", format, "--json", "-q", "-o", tmp_path / "out").document[
        "results"
    ]
    assert (row["verdict"], row["latency_ns"]) == ("failed", None)
    assert "so it was not loaded" in row["reasons"][0]["text"]


def test_a_program_of_another_machine_runs_when_the_user_says_so(
    bbx: Any, in_nets_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bbx("export", "sample_nets:tiny", "-f", "torchscript", "--json", "-q", "-o", tmp_path / "net")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    ask = (
        "bench",
        made.document["artifact"],
        "--runtime",
        "torchscript",
        "--json",
        "-q",
        "-o",
        tmp_path / "out",
    )
    [refused] = bbx(*ask).document["results"]
    assert refused["verdict"] == "failed"
    assert "not made by bbx on this machine" in refused["reasons"][0]["text"]
    assert "--trust" in refused["reasons"][0]["remedy"]
    [measured] = bbx(*ask, "--trust").document["results"]
    assert measured["latency_ns"]["median"] > 0


@pytest.mark.skipif(current_target() is not None, reason="tensorrt can build here")
def test_a_flavour_that_this_machine_lacks(refused: Any, tmp_path: Path) -> None:
    path = _matmul(tmp_path / "net.onnx")
    assert "rtx" in refused(5, "build-trt", path, "--flavor", "tensorrt")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target", "sm_90"), "Known: sm_75"),
        (("--target", "H100"), "Type one such as sm_86"),
        (("--target", "sm_86", "--profile", "8,4,1"), "not ordered"),
        (("--target", "sm_86", "--profile", "1,2"), "Type three shapes"),
        (("--target", "sm_86", "--workspace-mib", "0"), "workspace-mib"),
    ],
)
def test_an_engine_that_cannot_be(refused: Any, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], bytes(64), raw=True)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(helper.make_graph([node], "g", values[:1], values[1:], [weight])), path)
    assert said in refused(2, "build-trt", path, "--flavor", "rtx", *options)
