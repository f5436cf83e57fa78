"""The manifest: what is known of an artefact, read and written beside it."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bbx.artifact.hashing import sha256_of
from bbx.artifact.keys import sign
from bbx.errors import ArtifactError
from bbx.types import SCHEMA, Format, Postprocess, Precision, Preprocess, TensorSpec

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
    postprocess: Postprocess | None = None
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
    postprocess: Postprocess | None = None,
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
        postprocess=postprocess,
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


def specs_to_json(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    """Inputs or outputs as the JSON contract shows them: name, dtype, shape with null for dynamic."""
    return [asdict(spec) | {"shape": list(spec.shape)} for spec in specs]
