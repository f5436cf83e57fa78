"""Reuse what a step would give, or have a child process make it, one builder at a time."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bbx import artifact, lazy, process
from bbx.artifact import Manifest
from bbx.errors import ArtifactError
from bbx.pipeline.steps import Step


@dataclass(frozen=True, slots=True)
class Made:
    """An artefact on disk.

    Attributes:
        path: of the file.
        manifest: the one beside it.
        reused: it was there already and is, byte for byte, what making it again would give.
    """

    path: Path
    manifest: Manifest
    reused: bool

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document of the command that made it, which says whether it was reused."""
        key = "engine" if self.manifest.format == "engine" else "artifact"
        return {**self.manifest.document, key: str(self.path), "reused": self.reused}


def ensure(
    step: Step, out: Path, *, force: bool = False, listener: process.Listener = process.silent
) -> Made:
    """Give the artefact of `step`, from disk where it is proven, else made in a child process.

    Eight callers at once are served by one build: the others wait for the lock and reuse.

    Args:
        out: a folder, or the artefact's path.
        force: make it again whatever is there.
        listener: hears the child's progress and warnings.

    Raises:
        CheckFailed: it was made and is not right; it is on disk under a name that says so.
        BbxError: as the step's task.
    """
    path = artifact.out_path(out, step.stem, step.result_format).absolute()
    fingerprint = step.fingerprint()
    may_reuse = step.reusable and not force
    if may_reuse and (manifest := artifact.reusable(path, fingerprint)) is not None:
        return _reused(path, manifest, listener)
    with artifact.locked(path):
        if may_reuse and (manifest := artifact.reusable(path, fingerprint)) is not None:
            return _reused(path, manifest, listener)
        request = {"step": step.to_request(), "path": str(path)}
        try:
            process.run_task(step.task, request, listener=listener)
        finally:
            with contextlib.suppress(OSError):  # a folder that cannot be listed holds nothing of ours
                for leftover in artifact.staging_folders(path):
                    shutil.rmtree(leftover, ignore_errors=True)
        manifest = artifact.read_manifest(path)
    if manifest is None:
        raise ArtifactError(f"{path} was made and has disappeared since.", hint="Run the command again.")
    return Made(path, manifest, reused=False)


def _reused(path: Path, manifest: Manifest, listener: process.Listener) -> Made:
    """An artefact from disk; its warnings are given again, since they are still true."""
    for text in manifest.document.get("warnings", ()):
        listener(process.Notice(text))
    return Made(path, manifest, reused=True)


def failed_path(path: Path) -> Path:
    """Where an artefact that failed its check is kept: `resnet50.failed.onnx`."""
    return path.with_name(f"{path.stem}.failed{path.suffix}")


def commit_checked(staging: Path, path: Path, make: Callable[[Path], Manifest], *, passed: bool) -> Manifest:
    """Move a staged artefact to its place, or to `failed_path` when its check did not pass.

    Args:
        staging: folder that holds the artefact under `path`'s name.
        make: describes the staged file whose final path it is given.
    """
    failed = failed_path(path)
    if passed:
        manifest = make(path)
        artifact.commit(staging, path, manifest)
        for stale in (failed, artifact.manifest_path(failed)):
            stale.unlink(missing_ok=True)
        return manifest
    _rename_staged(staging, path.name, failed.name)
    manifest = make(failed)
    artifact.commit(staging, failed, manifest)
    return manifest


def _rename_staged(staging: Path, before: str, after: str) -> None:
    """Give a staged artefact another name; its data file follows, so that no good artefact loses its own."""
    (staging / before).rename(staging / after)
    data = staging / f"{before}.data"
    if data.exists():
        data.rename(staging / f"{after}.data")
        onnx = lazy.require("onnx")
        model = onnx.load(str(staging / after), load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = f"{after}.data"
        (staging / after).write_bytes(model.SerializeToString())
