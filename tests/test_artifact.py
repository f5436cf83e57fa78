"""Artefacts on disk: what is believed, what is refused, and what a crash leaves."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bbx import artifact
from bbx.artifact import Manifest, manifest_path
from bbx.errors import ArtifactError, BbxError, ExhaustedError, UsageError
from bbx.types import Format, Preprocess, TensorSpec
from bbx.version import __version__

INPUTS = (TensorSpec("images", "float32", (None, 3, 8, 8)),)
OUTPUTS = (TensorSpec("logits", "float32", (None, 10)),)


def make(folder: Path, name: str, content: bytes, *, format: Format = "onnx", **extra: bytes) -> Path:
    """Stage and commit an artefact; `extra` are its data files, `.` written as `_`."""
    path = folder / name
    with artifact.staged(path) as staging:
        (staging / name).write_bytes(content)
        for other, data in extra.items():
            (staging / other.replace("_", ".")).write_bytes(data)
        artifact.commit(staging, path, describe(staging, name, format=format))
    return path


def describe(staging: Path, name: str, *, format: Format = "onnx") -> Manifest:
    return artifact.make_manifest(
        staging,
        file=name,
        format=format,
        inputs=INPUTS,
        outputs=OUTPUTS,
        preprocess=Preprocess(8, 8),
        model="net",
        weights="random",
        request={"seed": 0},
        fingerprint="f1",
        tools={"bbx": "1"},
        command="bbx export net",
        document={"parity": {"verdict": "pass"}},
    )


# --- manifests --------------------------------------------------------------------------------------


def test_a_manifest_says_the_same_after_a_round_trip(tmp_path: Path) -> None:
    path = make(tmp_path, "net.onnx", b"graph", net_onnx_data=b"weights")
    manifest = artifact.read_manifest(path)
    assert manifest is not None
    assert (manifest.inputs, manifest.outputs, manifest.preprocess) == (INPUTS, OUTPUTS, Preprocess(8, 8))
    assert manifest.sha256 == hashlib.sha256(b"graph").hexdigest()
    assert manifest.bytes == 5
    [data] = manifest.external_data
    assert (data.file, data.sha256) == ("net.onnx.data", hashlib.sha256(b"weights").hexdigest())
    assert Manifest.model_validate_json(manifest.to_json()) == manifest
    assert json.loads(manifest_path(path).read_text())["schema"] == "bbx/1"


def test_no_manifest_is_no_error(tmp_path: Path) -> None:
    assert artifact.read_manifest(tmp_path / "net.onnx") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[: len(text) // 2], "Invalid JSON"),
        (lambda text: text.replace('"schema": "bbx/1"', '"schema": "bbx/9"'), "schema"),
        (lambda text: text.replace('"model"', '"modell"'), "model"),
        (lambda text: text.replace('"float32"', '"float33"'), "inputs"),
        (lambda text: text.replace('"bytes": 5', '"bytes": "many"'), "bytes"),
        (lambda text: "[]", "the document"),
    ],
    ids=["truncated", "schema", "unknown key", "dtype", "type", "list"],
)
def test_a_bad_manifest_is_named_and_proves_nothing(tmp_path: Path, change: Any, said: str) -> None:
    path = make(tmp_path, "net.onnx", b"graph")
    manifest_path(path).write_text(change(manifest_path(path).read_text()))
    with pytest.raises(ArtifactError, match=said) as caught:
        artifact.read_manifest(path)
    assert "\n" not in str(caught.value)
    assert artifact.reusable(path, "f1") is None


def test_bytes_that_are_no_text_are_no_manifest(tmp_path: Path) -> None:
    path = make(tmp_path, "net.onnx", b"graph")
    manifest_path(path).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match="cannot be read"):
        artifact.read_manifest(path)


# --- reuse ------------------------------------------------------------------------------------------


def test_what_is_intact_is_reused(tmp_path: Path) -> None:
    path = make(tmp_path, "net.onnx", b"graph", net_onnx_data=b"weights")
    assert artifact.reusable(path, "f1") == artifact.read_manifest(path)
    assert artifact.reusable(path, "f2") is None


@pytest.mark.parametrize("changed", ["net.onnx", "net.onnx.data"])
@pytest.mark.parametrize("how", ["flipped", "deleted", "truncated"])
def test_what_changed_is_not_reused(tmp_path: Path, changed: str, how: str) -> None:
    path = make(tmp_path, "net.onnx", b"graph", net_onnx_data=b"weights")
    victim = tmp_path / changed
    content = bytearray(victim.read_bytes())
    content[2] ^= 1
    if how == "deleted":
        victim.unlink()
    else:
        victim.write_bytes(content if how == "flipped" else content[:-1])
    assert artifact.reusable(path, "f1") is None


def test_fingerprints_see_values_and_not_the_order_of_keys() -> None:
    one = artifact.fingerprint_of({"a": 1, "b": [None, "x"]})
    assert artifact.fingerprint_of({"b": [None, "x"], "a": 1}) == one
    assert artifact.fingerprint_of({"a": 1, "b": [None, "y"]}) != one


def test_the_source_digest_is_of_bbx_with_its_linked_folders() -> None:
    assert artifact.source_digest() == artifact.source_digest()
    walked = {
        Path(folder).name for folder, _, _ in os.walk(Path(artifact.__file__).parents[1], followlinks=True)
    }
    assert {"exporter", "calibration", "benchmarks"} <= walked


def test_versions_are_those_of_what_is_installed() -> None:
    assert artifact.tool_versions("onnx", "no_such_module") == {
        "bbx": __version__,
        "onnx": onnx.__version__,
    }


# --- trust ------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "bbx"


def test_the_key_is_random_private_and_kept(state: Path, tmp_path: Path) -> None:
    signature = artifact.sign("00")
    assert (state / "key").stat().st_mode & 0o777 == 0o600
    assert len((state / "key").read_bytes()) == 32
    assert artifact.sign("00") == signature != artifact.sign("01")
    assert sorted(p.name for p in state.iterdir()) == ["key"]


def test_another_users_key_gives_another_signature(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    signatures = set()
    for user in ("one", "two"):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / user))
        signatures.add(artifact.sign("00"))
    assert len(signatures) == 2


def test_without_xdg_the_state_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert artifact.state_folder() == tmp_path / ".local" / "state" / "bbx"


def test_a_key_that_cannot_be_kept_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(ArtifactError, match="XDG_STATE_HOME"):
        artifact.sign("00")


@pytest.mark.parametrize("format", sorted(artifact.PROGRAMS))
def test_a_program_made_here_is_trusted_and_any_other_is_not(
    state: Path, tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path, f"net.{format}", b"program", format=format)
    artifact.require_trust(path, format, trust=False)

    def refused(said: str) -> None:
        with pytest.raises(ArtifactError, match=said) as caught:
            artifact.require_trust(path, format, trust=False)
        assert "--trust" in caught.value.hint
        artifact.require_trust(path, format, trust=True)

    path.write_bytes(b"programs")
    refused("changed after bbx made it")
    _forge(path)
    refused("not made by bbx on this machine")
    manifest_path(path).unlink()
    refused("no manifest")
    path = make(tmp_path, f"net.{format}", b"program", format=format)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    refused("not made by bbx on this machine")


def _forge(path: Path) -> None:
    """Give the manifest the hash of what now stands there, and keep its signature."""
    manifest = artifact.read_manifest(path)
    assert manifest is not None
    forged = manifest.model_copy(update={"sha256": artifact.sha256_of(path)})
    manifest_path(path).write_text(forged.to_json())


def test_a_manifest_copied_beside_another_program_is_not_enough(state: Path, tmp_path: Path) -> None:
    good = make(tmp_path, "good.engine", b"program", format="engine")
    evil = tmp_path / "evil.engine"
    evil.write_bytes(b"evil")
    manifest_path(evil).write_text(manifest_path(good).read_text())
    with pytest.raises(ArtifactError, match="changed"):
        artifact.require_trust(evil, "engine", trust=False)


def test_graphs_need_no_trust_and_carry_no_signature(state: Path, tmp_path: Path) -> None:
    path = make(tmp_path, "net.onnx", b"graph")
    manifest_path(path).unlink()
    artifact.require_trust(path, "onnx", trust=False)
    assert not (state / "key").exists()


# --- paths, locks, disks ----------------------------------------------------------------------------


def test_out_is_a_folder_or_the_path_itself(tmp_path: Path) -> None:
    assert artifact.out_path(tmp_path, "net", "onnx") == tmp_path / "net.onnx"
    assert artifact.out_path(tmp_path / "my.onnx", "net", "onnx") == tmp_path / "my.onnx"
    (tmp_path / "folder.onnx").mkdir()
    assert artifact.out_path(tmp_path / "folder.onnx", "net", "onnx") == tmp_path / "folder.onnx" / "net.onnx"
    with pytest.raises(UsageError, match=r"Type --out .*my\.pt2"):
        artifact.out_path(tmp_path / "my.onnx", "net", "pt2")


def test_one_builder_at_a_time(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    code = (
        "import sys; from pathlib import Path; from bbx import artifact\n"
        "with artifact.locked(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ArtifactError, match="Another process"), artifact.locked(path, timeout_s=0.1):
            pytest.fail("two builders held the lock")
        with artifact.locked(tmp_path / "other.onnx", timeout_s=0.1):
            pass  # another artefact is another lock
        other.kill()
    with artifact.locked(path, timeout_s=5):
        pass  # a killed builder holds nothing
    assert list(tmp_path.glob("net*")) == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, ExhaustedError),
        (errno.EDQUOT, ExhaustedError),
        (errno.EFBIG, ExhaustedError),
        (errno.EACCES, ArtifactError),
        (errno.EROFS, ArtifactError),
        (errno.ENOTDIR, ArtifactError),
        (errno.ENAMETOOLONG, ArtifactError),
    ],
)
def test_refusals_of_the_system_are_named(tmp_path: Path, number: int, kind: type[BbxError]) -> None:
    with pytest.raises(kind, match="--out"), artifact.disk_errors(tmp_path / "net.onnx"):
        raise OSError(number, os.strerror(number))


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="timed out"), artifact.disk_errors(tmp_path):
        raise OSError(errno.ETIMEDOUT, "timed out")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "net.onnx", Path("/proc/nowhere/net.onnx")):
        with pytest.raises(ArtifactError, match="cannot be written"), artifact.staged(out):
            pytest.fail("a staging folder was made")


def test_a_full_disk_leaves_the_old_artefact(tmp_path: Path) -> None:
    path = make(tmp_path, "net.onnx", b"old")

    def run_full() -> None:
        with artifact.staged(path) as staging:
            (staging / "net.onnx").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ExhaustedError, match="No space left"):
        run_full()
    assert path.read_bytes() == b"old"
    assert artifact.reusable(path, "f1") is not None
    assert artifact.staging_folders(path) == []


# --- killed while writing ---------------------------------------------------------------------------


def _killed_at(moment: int, path: Path, *, data: bool) -> bool:
    """Make a new artefact in a process that is killed at its n-th rename, deletion or flush."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = moment

    def deadly(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return function(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((Path, "replace"), (Path, "unlink"), (artifact.staging, "_flush")):
            patch.setattr(owner, name, deadly(getattr(owner, name)))
        make(path.parent, path.name, b"new graph", **({"net_onnx_data": b"new weights"} if data else {}))
    os._exit(0)


@pytest.mark.parametrize("data", [True, False])
def test_killed_at_any_moment_leaves_the_old_artefact_or_none(tmp_path: Path, data: bool) -> None:
    extra = {"net_onnx_data": b"old weights"} if data else {}
    killed, moment, seen = True, 0, set()
    while killed:
        path = make(tmp_path / str(moment), "net.onnx", b"old graph", **extra)
        killed = _killed_at(moment, path, data=data)
        content = path.read_bytes() if artifact.reusable(path, "f1") else None
        seen.add(content)
        assert killed or content == b"new graph"
        assert bool(artifact.staging_folders(path)) == killed
        make(path.parent, "net.onnx", b"next graph", **extra)
        assert artifact.staging_folders(path) == []
        assert artifact.reusable(path, "f1") is not None
        moment += 1
    assert moment > 4
    assert seen == {b"old graph", None, b"new graph"}


# --- external data ----------------------------------------------------------------------------------


def _graph(folder: Path, location: str) -> Path:
    """A graph that says its weights are at `location`."""
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [weight],
    )
    folder.mkdir(exist_ok=True)
    path = folder / "net.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_data_beside_the_graph_is_found(tmp_path: Path) -> None:
    path = _graph(tmp_path / "model", "net.data")
    (path.parent / "net.data").write_bytes(bytes(64))
    assert artifact.check_external_data(path) == [path.parent / "net.data"]
    (tmp_path / "link").symlink_to(path.parent)
    assert artifact.check_external_data(tmp_path / "link" / "net.onnx") == [path.parent / "net.data"]


@pytest.mark.parametrize("kind", ["absolute", "parent", "symlink", "link folder", "hard", "pipe", "empty"])
def test_data_that_is_elsewhere_is_not_opened(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    locations = {"absolute": str(secret), "parent": "../secret", "link folder": "up/secret", "empty": ""}
    path = _graph(tmp_path / "model", locations.get(kind, "net.data"))
    data = path.parent / "net.data"
    match kind:
        case "symlink":
            data.symlink_to(secret)
        case "hard":
            data.hardlink_to(secret)
        case "pipe":
            os.mkfifo(data)
        case "link folder":
            (path.parent / "up").symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match=r"outside its own folder|not a regular file") as caught:
        artifact.check_external_data(path)
    assert caught.value.hint


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"'net\.data', which is not there"):
        artifact.check_external_data(_graph(tmp_path / "model", "net.data"))


@pytest.mark.parametrize("content", [b"", b"hello, world", bytes(100)])
def test_what_is_no_graph_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not an ONNX graph") as caught:
        artifact.check_external_data(path)
    assert "\n" not in str(caught.value)


def test_a_graph_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="There is no file"):
        artifact.check_external_data(tmp_path / "net.onnx")
    with pytest.raises(ArtifactError, match="cannot be read"):
        artifact.check_external_data(tmp_path)
