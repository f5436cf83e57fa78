"""From an artefact back to the module it comes from, by the hashes in the manifests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bbx import artifact, lazy
from bbx.artifact import SUFFIXES, Manifest, is_intact, sha256_of
from bbx.errors import ArtifactError
from bbx.models.spec import ModelSpec
from bbx.types import Precision

StageName = Literal["torch", "onnx", "typed", "qdq", "engine", "torchscript", "pt2", "unknown"]


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One stage on the way from a module to an artefact.

    Attributes:
        stage: `torch` for the module, `unknown` for a parent that was not found.
        path: None for the module and for a parent that was not found.
        manifest: the artefact's own; for the module, that of the artefact exported from it.
        spec: the module's; None for an artefact.
        missing: why a parent was not found; empty for the others.
    """

    stage: StageName
    path: Path | None
    precision: Precision
    manifest: Manifest | None = None
    spec: ModelSpec | None = None
    missing: str = ""

    @property
    def half(self) -> Literal["fp16", "bf16"] | None:
        """The 16-bit type of a graph that bbx retyped; a Q/DQ graph's `precision` does not tell it."""
        if self.stage != "typed" or self.manifest is None:
            return None
        asked: Literal["fp16", "bf16"] | None = self.manifest.request.get("precision")
        return asked

    @property
    def label(self) -> str:
        """What the stage is called in a sentence."""
        if self.spec is not None:
            return f"torch ({self.spec.name})"
        return self.path.name if self.path is not None else "a parent that was not found"


def ancestry(path: Path) -> list[Ancestor]:
    """The stages that led to an artefact, the oldest first, the artefact last.

    A parent is believed only when its hash is the one that its child's manifest names; it is looked for where
    the child was made from, then among the manifests of the child's folder.

    Raises:
        ArtifactError: there is no such file, or it is in no format that bbx knows.
    """
    current: Path | None = path
    found: list[Ancestor] = []
    while current is not None:
        this = artefact_stage(current)
        found.append(this)
        manifest = this.manifest
        if manifest is None:
            break
        spec = manifest.request.get("spec")
        if spec is not None:
            found.append(Ancestor("torch", None, "fp32", manifest, ModelSpec.from_request(spec)))
            break
        digest = manifest.parent_sha256
        if digest is None:
            break
        current = _parent_of(current, manifest, digest)
        if current is None:
            said = f"The parent of {this.label} (sha256 {digest[:12]}…) is not in {path.parent} any more."
            found.append(Ancestor("unknown", None, "fp32", missing=said))
    return found[::-1]


def artefact_stage(path: Path) -> Ancestor:
    """What stage a file is, by its manifest; a graph without one is read.

    Raises:
        ArtifactError: there is no such file, it is in no format that bbx knows, or a graph that cannot be
            read.
    """
    if not path.is_file():
        raise ArtifactError(f"There is no file {path}.")
    formats = {suffix: format for format, suffix in SUFFIXES.items()}
    format = formats.get(path.suffix)
    if format is None:
        known = ", ".join(sorted(formats))
        raise ArtifactError(f"{path} is no artefact that bbx knows: its name must end in one of {known}.")
    manifest = _manifest_of(path)
    if format != "onnx":
        return Ancestor(format, path, manifest.precision if manifest else "fp32", manifest)
    precision = manifest.precision if manifest else _precision_of(path)
    stages: dict[Precision, StageName] = {"fp32": "onnx", "fp16": "typed", "bf16": "typed"}
    # A Q/DQ graph whose rest is in 16 bits is still an INT8 or FP8 one, and two stages from FP32.
    retyped = manifest is not None and "converted" in manifest.document
    return Ancestor("typed" if retyped else stages.get(precision, "qdq"), path, precision, manifest)


def _manifest_of(path: Path) -> Manifest | None:
    """The manifest beside a file, if it is true to the file and its data."""
    try:
        manifest = artifact.read_manifest(path)
    except ArtifactError:
        return None  # somebody else's JSON says nothing about the file
    return manifest if manifest is not None and is_intact(path, manifest) else None


def _precision_of(path: Path) -> Precision:
    from bbx.calibration.low_precision import precision_of

    artifact.check_external_data(path)
    return precision_of(lazy.require("onnx").load(str(path)))


def _parent_of(path: Path, manifest: Manifest, digest: str) -> Path | None:
    recorded = [manifest.request.get(key) for key in ("source", "reference")]
    for made_from in (Path(each) for each in recorded if each is not None):
        if made_from.is_file() and sha256_of(made_from) == digest:
            return made_from
    for beside in sorted(path.parent.glob("*.json")):
        candidate = beside.with_suffix("")
        known = _manifest_of(candidate) if candidate.is_file() else None
        if known is not None and known.sha256 == digest:
            return candidate
    return None
