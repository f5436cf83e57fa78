"""Writing: a lock, a staging folder, a flush, and a rename with the manifest last."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from bbx.artifact.keys import state_folder
from bbx.artifact.manifest import SUFFIXES, Manifest, manifest_path
from bbx.errors import ArtifactError, ExhaustedError, UsageError
from bbx.types import Format


def out_path(out: Path, stem: str, format: Format) -> Path:
    """The artefact's path: `out` itself when it carries the format's suffix, else a file in that folder.

    Raises:
        UsageError: `out` is a file name with the suffix of another format.
    """
    suffix = SUFFIXES[format]
    if out.suffix == suffix and not out.is_dir():
        return out
    if out.suffix in SUFFIXES.values() and not out.is_dir():
        raise UsageError(
            f"--out {out} ends in {out.suffix}, and the format asked for is {format}.",
            hint=f"Type --out {out.with_suffix(suffix)}, or a folder.",
        )
    return out / f"{stem}{suffix}"


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float = 3600.0) -> Iterator[None]:
    """Hold the lock of the artefact at `path`: one builder at a time, on this machine.

    Raises:
        ArtifactError: another process held it for all of `timeout_s` seconds.
    """
    folder = state_folder() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir())
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:32]
    lock = FileLock(folder / f"bbx-{name}.lock", timeout=timeout_s)
    try:
        with lock:
            yield
    except Timeout as error:
        raise ArtifactError(
            f"Another process has been making {path} for over {timeout_s:.0f} s.",
            hint=f"Stop it, or choose another --out. The lock is {error.lock_file}.",
        ) from error


_REFUSALS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOENT,  # a folder of a virtual file system such as /proc
    errno.ELOOP,
    errno.ENAMETOOLONG,
)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing `path` into errors that bbx names.

    Raises:
        ExhaustedError: the disk or the quota is full.
        ArtifactError: the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ExhaustedError(
                f"No space left to write {path}.", hint="Free some, or choose another --out."
            ) from error
        if error.errno in _REFUSALS:
            raise ArtifactError(
                f"{path} cannot be written: {os.strerror(error.errno)}.", hint="Choose another --out."
            ) from error
        raise


def staging_folders(path: Path) -> list[Path]:
    """Staging folders of the artefact at `path` that are on disk now."""
    return sorted(path.parent.glob(f".{path.name}.staging-*"))


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A staging folder beside `path`; removed at the end whatever happens.

    Holding the artefact's lock is the caller's duty; what a killed builder left is removed first.

    Raises:
        ArtifactError, ExhaustedError: as `disk_errors`.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in staging_folders(path):
            shutil.rmtree(leftover)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.staging-", dir=path.parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that its readers see the old one, the new one or none, whatever happens.

    Raises:
        ArtifactError, ExhaustedError: as `disk_errors`.
    """
    with staged(path) as staging:
        new = staging / path.name
        new.write_bytes(content)
        _flush(new)
        new.replace(path)
        _flush(path.parent)


def commit(staging: Path, path: Path, manifest: Manifest) -> None:
    """Move what was staged to its place: external data, then the file, then the manifest.

    Where the artefact has several files, the old one is withdrawn first: a kill in between leaves none
    rather than a mixture.

    Args:
        staging: folder that holds `manifest.file` and its external data.
        path: final place; its name is `manifest.file`.
    """
    with disk_errors(path):
        staged_manifest = manifest_path(staging / path.name)
        staged_manifest.write_text(manifest.to_json())
        parts = [d.file for d in manifest.external_data]
        for name in (*parts, path.name, staged_manifest.name):
            _flush(staging / name)
        if parts:
            manifest_path(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        for name in (*parts, path.name, staged_manifest.name):
            (staging / name).replace(path.parent / name)
        _flush(path.parent)
