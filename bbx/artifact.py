"""Artefacts: a file, the manifest beside it, and the rules by which either is believed.

`resnet50.onnx` has its manifest in `resnet50.onnx.json`. An artefact is made in a staging folder beside
its final place, verified there, flushed, and renamed; the manifest is renamed last. So a reader sees the
old artefact, the new one, or none, and a manifest whose hash matches its file means that the file was
verified. Formats that run code when they are loaded carry a signature made with a key of this user on
this machine; a program without a valid signature is refused unless the user says `--trust`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import json
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bbx import lazy
from bbx.errors import ArtifactError, ExhaustedError, UsageError
from bbx.types import SCHEMA, Format, Precision, Preprocess, TensorSpec
from bbx.version import __version__

if TYPE_CHECKING:
    import onnx

PROGRAMS: frozenset[Format] = frozenset({"torchscript", "pt2", "engine"})
"""Formats that execute code of their author when they are loaded."""

SUFFIXES: dict[Format, str] = {
    "onnx": ".onnx",
    "torchscript": ".torchscript",
    "pt2": ".pt2",
    "engine": ".engine",
}


class WeightsFile(BaseModel):
    """A checkpoint given by path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str


WeightsOrigin = Literal["pretrained", "random", "file"] | WeightsFile
"""Where the weights came from; `"file"` is an ONNX graph that brought its own."""


class ExternalData(BaseModel):
    """A file in the artefact's folder that holds tensors of an ONNX graph."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str


class Manifest(BaseModel):
    """What is known of an artefact; validated when it is read, unknown keys rejected.

    Attributes:
        file: name of the artefact, in the manifest's own folder.
        sha256: of that file.
        request: the options that made it, as plain JSON.
        fingerprint: hash of the request and of everything else the result depends on; equal
            fingerprints mean that making it again would give the same thing.
        parent_sha256: of the artefact it was made from, if any.
        tools: versions of the libraries that made it.
        targets: GPU architectures an engine was compiled for, such as `sm_86`.
        command: the exact command that makes it again.
        document: the JSON document that the command printed.
        signature: proof that this user made the file on this machine; see `sign`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal["bbx/1"] = Field(default="bbx/1", alias="schema")
    file: str
    format: Format
    precision: Precision = "fp32"
    sha256: str
    bytes: int
    external_data: tuple[ExternalData, ...] = ()
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess | None = None
    model: str
    weights: WeightsOrigin
    request: dict[str, Any]
    fingerprint: str
    parent_sha256: str | None = None
    tools: dict[str, str]
    targets: tuple[str, ...] = ()
    command: str
    document: dict[str, Any]
    created: str
    signature: str = ""

    def to_json(self) -> str:
        """The manifest as it stands on disk."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint_of(facts: dict[str, Any]) -> str:
    """SHA-256 of plain JSON data, independent of the order of its keys."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def source_digest() -> str:
    """SHA-256 over bbx's own source, so that no artefact outlives the code that proved it."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    walk = os.walk(root, followlinks=True)
    sources = (Path(folder, name) for folder, _, names in walk for name in names if name.endswith(".py"))
    for path in sorted(sources):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()


def tool_versions(*modules: str) -> dict[str, str]:
    """Versions of bbx and of the libraries named, without importing them; absent ones are left out."""
    found = {name: lazy.version(name) for name in modules}
    return {"bbx": __version__} | {name: text for name, text in found.items() if text is not None}


def manifest_path(path: Path) -> Path:
    """Where the manifest of the artefact at `path` stands."""
    return path.with_name(path.name + ".json")


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of the artefact at `path`, or None when it has none.

    Raises:
        ArtifactError: there is one, and it cannot be read or is not of this schema.
    """
    beside = manifest_path(path)
    try:
        text = beside.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{beside} cannot be read: {error}.") from error
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ArtifactError(
            f"{beside} is not a manifest of schema {SCHEMA}: {where}: {first['msg']}.",
            hint="Delete it and make the artefact again.",
        ) from error


def is_intact(path: Path, manifest: Manifest) -> bool:
    """Whether the artefact and its external data are, byte for byte, what the manifest proved."""
    files = [(path, manifest.sha256)] + [(path.parent / d.file, d.sha256) for d in manifest.external_data]
    return all(file.is_file() and sha256_of(file) == digest for file, digest in files)


def reusable(path: Path, fingerprint: str) -> Manifest | None:
    """The manifest at `path` when what stands there is what making it again would give; else None."""
    try:
        manifest = read_manifest(path)
    except ArtifactError:
        return None  # An unreadable manifest proves nothing, so the artefact is made again.
    if manifest is None or manifest.fingerprint != fingerprint or not is_intact(path, manifest):
        return None
    return manifest


# --- trust ------------------------------------------------------------------------------------------


def state_folder() -> Path:
    """Where this user's signing key and the locks of artefacts are kept."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "bbx"


def _machine_key() -> bytes:
    path = state_folder() / "key"
    try:
        with contextlib.suppress(FileNotFoundError):
            return path.read_bytes()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".key-")
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(32))
        # A hard link fails where another process was first; then its key is the one.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        Path(temporary).unlink()
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"The key that signs artefacts cannot be kept in {path.parent}: {error.strerror}.",
            hint="Set XDG_STATE_HOME to a folder that can be written.",
        ) from error


def sign(sha256: str) -> str:
    """Signature of a file's hash with the key of this user on this machine (HMAC-SHA-256)."""
    return hmac.new(_machine_key(), sha256.encode(), hashlib.sha256).hexdigest()


def require_trust(path: Path, format: Format, *, trust: bool) -> None:
    """Refuse a program that bbx did not make here.

    Args:
        trust: the user takes responsibility for the file.

    Raises:
        ArtifactError: the format runs code when loaded, and the file is foreign or was changed.
    """
    if format not in PROGRAMS or trust:
        return
    manifest = read_manifest(path)
    if manifest is None:
        reason = "it has no manifest"
    elif not hmac.compare_digest(sign(manifest.sha256), manifest.signature):
        reason = "its manifest was not made by bbx on this machine"
    elif sha256_of(path) != manifest.sha256:
        reason = "it changed after bbx made it"
    else:
        return
    raise ArtifactError(
        f"{path} is a program ({format}) and {reason}, so it was not loaded.",
        hint="If you know who made it, add --trust.",
    )


# --- writing ----------------------------------------------------------------------------------------


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


def make_manifest(
    staging: Path,
    *,
    file: str,
    format: Format,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    model: str,
    weights: WeightsOrigin,
    request: dict[str, Any],
    fingerprint: str,
    tools: dict[str, str],
    command: str,
    document: dict[str, Any],
    precision: Precision = "fp32",
    preprocess: Preprocess | None = None,
    parent_sha256: str | None = None,
    targets: tuple[str, ...] = (),
) -> Manifest:
    """Describe what stands in `staging`: hashes, sizes, external data and signature are read off it."""
    path = staging / file
    digest = sha256_of(path)
    others = sorted(p for p in staging.iterdir() if p.name != file and p.is_file())
    return Manifest(
        file=file,
        format=format,
        precision=precision,
        sha256=digest,
        bytes=path.stat().st_size,
        external_data=tuple(ExternalData(file=p.name, sha256=sha256_of(p)) for p in others),
        inputs=inputs,
        outputs=outputs,
        preprocess=preprocess,
        model=model,
        weights=weights,
        request=request,
        fingerprint=fingerprint,
        parent_sha256=parent_sha256,
        tools=tools,
        targets=targets,
        command=command,
        document=document,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        signature=sign(digest) if format in PROGRAMS else "",
    )


# --- reading ONNX files from anyone -----------------------------------------------------------------


def check_external_data(path: Path) -> list[Path]:
    """The external data files of an ONNX graph, each proven to be safe to open; see `checked_graph`."""
    return checked_graph(path)[1]


def checked_graph(path: Path) -> tuple[onnx.ModelProto, list[Path]]:
    """An ONNX graph without its external data, and the files of that data, proven to be safe to open.

    Each must resolve inside the graph's own folder, to a regular file with a single link: a graph must
    not make its reader open `/etc/shadow`, through a symbolic or a hard link either.

    Raises:
        ArtifactError: the graph cannot be parsed, or names a file that breaks the rule.
    """
    library = lazy.require("onnx")
    try:
        model: onnx.ModelProto = library.load(str(path), load_external_data=False)
    except FileNotFoundError as error:
        raise ArtifactError(f"There is no file {path}.") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # protobuf raises DecodeError, which has no public home
        raise ArtifactError(
            f"{path} is not an ONNX graph, or is truncated: {error}.", hint="Export or copy it again."
        ) from error
    if not model.graph.node:
        raise ArtifactError(f"{path} is not an ONNX graph: it has no nodes.", hint="Export or copy it again.")
    root = path.resolve().parent
    found: dict[str, Path] = {}
    for tensor in library.external_data_helper._get_all_tensors(model):
        if not library.external_data_helper.uses_external_data(tensor):
            continue
        location = library.external_data_helper.ExternalDataInfo(tensor).location
        if location not in found:
            found[location] = _safe_data_file(path, root, location, tensor.name)
    return model, list(found.values())


def _safe_data_file(path: Path, root: Path, location: str, tensor: str) -> Path:
    target = root / location
    if not location or Path(location).is_absolute() or not target.resolve().is_relative_to(root):
        raise ArtifactError(
            f"{path} keeps tensor {tensor!r} in {location!r}, outside its own folder, so it was not opened.",
            hint="Put the data file beside the graph and save the graph again.",
        )
    try:
        status = target.lstat()
    except OSError as error:
        raise ArtifactError(
            f"{path} keeps tensor {tensor!r} in {location!r}, which is not there.",
            hint="Copy the data file beside the graph.",
        ) from error
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise ArtifactError(
            f"{path} keeps tensor {tensor!r} in {location!r}, not a regular file with a single link.",
            hint="Replace the link by a copy of the data file.",
        )
    return target


def specs_to_json(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    """Inputs or outputs as the JSON contract shows them: name, dtype, shape with null for dynamic."""
    return [asdict(spec) | {"shape": list(spec.shape)} for spec in specs]
