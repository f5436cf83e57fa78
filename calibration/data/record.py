"""The record of calibration data: which images, in which part, preprocessed how; and checking them later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bbx import artifact
from bbx.calibration.data.arrays import RowDigests
from bbx.calibration.data.lint import Finding
from bbx.calibration.data.source import Entry, SourceKind
from bbx.datasets.files import few
from bbx.errors import ArtifactError, BbxError
from bbx.types import SCHEMA, Preprocess, TensorSpec

Split = Literal["calibration", "held_out"]
"""Ranges are measured on the first; between methods the second decides."""


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RecordedImage(_Plain):
    """One image that is used.

    Attributes:
        path: relative to the record's root; of noise and of data given in Python, only a name.
        row: which row of the arrays in that file; None for an image file.
        sha256: of the file, or of the row.
        split: which use is made of it.
        labels: what is on it, where that is known.
    """

    path: str
    row: int | None = None
    sha256: str
    split: Split
    labels: tuple[str, ...] = ()

    @property
    def entry(self) -> Entry:
        """The image as an entry of a source."""
        return Entry(self.path, self.row, self.labels)


class SkippedImage(_Plain):
    """An image that cannot be decoded."""

    path: str
    reason: str


class Annotations(_Plain):
    """The COCO file that images and labels were read from; `path` is relative to the record's root."""

    path: str
    sha256: str


class CalibrationRecord(_Plain):
    """All that decides which values a calibration sees.

    Attributes:
        source: where the images come from.
        random: it is noise.
        root: the folder that paths are relative to. No part of the hash, so that it may be edited when the
            images have moved.
        inputs: of the network.
        preprocess: how an image became its input; None where arrays were given.
        found: images in the source, of which those below were drawn with `seed`.
        classes: the labels in the source, sorted, whether or not they are in the sample.
    """

    schema_: Literal["bbx/1"] = Field(default="bbx/1", alias="schema")
    kind: Literal["calibration"] = "calibration"
    source: SourceKind
    random: bool
    root: str | None
    annotations: Annotations | None = None
    inputs: tuple[TensorSpec, ...]
    preprocess: Preprocess | None
    seed: int
    batch: int
    found: int
    classes: tuple[str, ...] = ()
    images: tuple[RecordedImage, ...]
    skipped: tuple[SkippedImage, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def sha256(self) -> str:
        """Hash of everything but `root`: the contract's `manifest_sha256`."""
        facts: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude={"root"})
        return artifact.fingerprint_of(facts)

    def write(self, path: Path) -> None:
        """Write the record, with its own hash.

        Raises:
            ArtifactError, ExhaustedError: the file cannot be written.
        """
        document = self.model_dump(mode="json", by_alias=True) | {"sha256": self.sha256}
        with artifact.disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(document, indent=2) + "\n")


def is_record(document: Any) -> bool:
    """Whether a JSON document says of itself that it is a record."""
    return isinstance(document, dict) and document.get("kind") == "calibration" and "schema" in document


def read_record(path: Path) -> CalibrationRecord:
    """Read a record without looking at the images.

    Raises:
        ArtifactError: it is missing, is no record, or was edited in more than its `root`.
    """
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ArtifactError(f"There is no calibration record {path}.") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as a calibration record: {error}.") from error
    return record_from(document, path)


def record_from(document: Any, path: Path) -> CalibrationRecord:
    """The record in a JSON document that was read from `path`.

    Raises:
        ArtifactError: it is no record, or was edited in more than its `root`.
    """
    if not is_record(document):
        raise ArtifactError(f"{path} is no calibration record of schema {SCHEMA}.")
    claimed = document.get("sha256")
    content = {key: value for key, value in document.items() if key != "sha256"}
    try:
        record = CalibrationRecord.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ArtifactError(
            f"{path} is no calibration record of schema {SCHEMA}: {where}: {first['msg']}."
        ) from error
    if record.sha256 != claimed:
        raise ArtifactError(
            f"{path} was edited: its content is not what its hash says.",
            hint="Calibrate again; only its `root` may be edited, when the images have moved.",
        )
    return record


def verify_record(path: Path) -> CalibrationRecord:
    """Read a record and hash every image it names again.

    Noise and data given in Python stand in no file, so of them there is nothing to check.

    Raises:
        ArtifactError: it is no record, or images have changed or disappeared since; names the first of them.
    """
    record = read_record(path)
    require_unchanged(path, list(_changes(record)))
    return record


def require_unchanged(path: Path, changes: list[str]) -> None:
    """Fail where the files of a record are not those it names.

    Args:
        changes: what has become of each that is another, such as `a.jpg has changed`.

    Raises:
        ArtifactError: there are any.
    """
    if changes:
        raise ArtifactError(
            f"The calibration data of {path} is not what it was: {few(changes)}.",
            hint="Restore the files, calibrate again, or edit `root` in the record if they have moved.",
        )


def _changes(record: CalibrationRecord) -> Iterator[str]:
    if record.root is None:
        return
    root = Path(record.root)
    if record.annotations is not None:
        yield from _change(root, record.annotations.path, record.annotations.sha256)
    digests: dict[str, RowDigests] = {}
    for image in record.images:
        if image.row is None:
            yield from _change(root, image.path, image.sha256)
            continue
        if image.path not in digests:
            try:
                digests[image.path] = RowDigests(
                    root / image.path, tuple(spec.name for spec in record.inputs)
                )
            except BbxError:
                yield f"{image.path} cannot be read"
                return
        if digests[image.path].of(image.row) != image.sha256:
            yield f"{image.entry.name} has changed"


def _change(root: Path, path: str, sha256: str) -> Iterator[str]:
    if not (root / path).is_file():
        yield f"{path} is not in {root}"
    elif artifact.sha256_of(root / path) != sha256:
        yield f"{path} has changed"
