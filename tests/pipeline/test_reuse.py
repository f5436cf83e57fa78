"""What is on disk is given again when it is proven to be what was asked, and made again otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from bbx import artifact, process
from bbx.artifact import manifest_path
from bbx.models.build import build
from bbx.models.spec import ModelSpec

SMALL = ("timm:test_resnet", "--image-size", 64, "-f", "torchscript", "--json")
RANDOM = (*SMALL, "--weights", "random")


@pytest.fixture(autouse=True)
def _unchanging_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody who edits bbx meanwhile disturb these tests."""
    monkeypatch.setattr(artifact, "source_digest", lambda: "the source")


@pytest.fixture
def exported(bbx: Any, tmp_path: Path) -> Path:
    """A TorchScript file of a small model."""
    answer = bbx("export", *RANDOM, "-o", tmp_path / "out")
    assert answer.code == 0, answer.stderr
    assert answer.document["reused"] is False
    return tmp_path / "out" / "timm-test_resnet.torchscript"


def _reuse(bbx: Any, path: Path, *options: Any) -> bool:
    """Whether the same command with `options` takes what is there; the file's time has to agree."""
    before = path.stat().st_mtime_ns
    answer = bbx("export", *RANDOM, "-o", path.parent, *options)
    assert answer.code == 0, answer.stderr
    reused: bool = answer.document["reused"]
    assert reused == (path.stat().st_mtime_ns == before)
    return reused


def test_the_same_again_is_taken_from_disk(bbx: Any, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "run_task", lambda *_, **__: pytest.fail("it was made again"))
    assert _reuse(bbx, exported)
    in_folder, by_path = (bbx("export", *RANDOM, "-o", out).document for out in (exported.parent, exported))
    assert in_folder == by_path
    shown = bbx("export", *[word for word in RANDOM if word != "--json"], "-o", exported.parent)
    assert "already there, unchanged" in shown.stdout


def test_reuse_loads_neither_torch_nor_numpy(exported: Path) -> None:
    words = ["export", *map(str, RANDOM), "-o", str(exported.parent)]
    code = (
        "import sys\nfrom bbx import artifact\nfrom bbx.cli.app import _exit_code\n"
        "artifact.source_digest = lambda: 'the source'\n"
        f"assert _exit_code({words!r}) == 0\n"
        "assert not {'torch', 'numpy', 'onnx', 'onnxruntime'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"reused": true' in done.stdout


def test_another_option_makes_it_again(bbx: Any, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options in (("--seed", 1), ("--batch", 2), ("--num-classes", 7), ("--input", "uint8"), ()):
        assert not _reuse(bbx, exported, *options)
    assert not _reuse(bbx, exported, "--force")
    assert _reuse(bbx, exported)
    monkeypatch.setattr(artifact, "source_digest", lambda: "another source")
    assert not _reuse(bbx, exported)


def test_a_changed_file_is_made_again(bbx: Any, exported: Path) -> None:
    good = exported.read_bytes()
    exported.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    assert not _reuse(bbx, exported)
    manifest_path(exported).unlink()
    assert not _reuse(bbx, exported)
    manifest_path(exported).write_text("{}")
    assert not _reuse(bbx, exported)
    assert _reuse(bbx, exported)


def test_a_changed_checkpoint_makes_it_again(bbx: Any, tmp_path: Path) -> None:
    checkpoint, out = tmp_path / "net.safetensors", tmp_path / "out"
    module = build(ModelSpec("timm:test_resnet", weights="random", image_size=64)).module
    save_file(module.state_dict(), checkpoint)

    def export() -> dict[str, Any]:
        answer = bbx("export", *SMALL, "--weights", checkpoint, "-o", out)
        assert answer.code == 0, answer.stderr
        return dict(answer.document)

    first, second = export(), export()
    assert (first["reused"], second["reused"]) == (False, True)
    assert first["weights"]["path"] == str(checkpoint)
    state = load_file(checkpoint)
    state[next(iter(state))] += 1
    save_file(state, checkpoint)
    third = export()
    assert third["reused"] is False
    assert third["weights"]["sha256"] != first["weights"]["sha256"]
    assert third["sha256"] != first["sha256"]
    checkpoint.unlink()
    assert "There is no checkpoint" in bbx("export", *SMALL, "--weights", checkpoint, "-o", out).error


def test_a_factory_is_never_taken_from_disk(bbx: Any, in_nets_folder: Path, tmp_path: Path) -> None:
    ask = ("export", "sample_nets:tiny", "-f", "torchscript", "--json", "-o", tmp_path)
    assert [bbx(*ask).document["reused"] for _ in range(2)] == [False, False]


def test_the_warning_about_random_weights_is_given_every_time(
    bbx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    ask = (
        "export",
        "mobilenet_v3_small",
        "--image-size",
        64,
        "-f",
        "torchscript",
        "-q",
        "--json",
        "-o",
        tmp_path,
    )
    first, second = bbx(*ask), bbx(*ask)
    assert (first.document["reused"], second.document["reused"]) == (False, True)
    for answer in (first, second):
        assert answer.document["weights"] == "random"
        assert answer.stderr.startswith("warning: ")
        assert "RANDOM weights" in answer.stderr
        assert answer.document["warnings"] == [answer.stderr.removeprefix("warning: ").strip()]
    assert first.stderr == second.stderr


def test_eight_at_once_make_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bbx", "export", *map(str, RANDOM), "-o", str(tmp_path / "out")]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(8)
    ]
    answers = [(*run.communicate(timeout=300), run.returncode) for run in runs]
    assert [code for _, _, code in answers] == [0] * 8
    documents = [json.loads(out) for out, _, _ in answers]
    assert sorted(document["reused"] for document in documents) == [False] + [True] * 7
    assert len({document["sha256"] for document in documents}) == 1
    name = "timm-test_resnet.torchscript"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [name, f"{name}.json"]
