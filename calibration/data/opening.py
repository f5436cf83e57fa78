"""From what a user names to a source of calibration data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bbx.calibration.data.arrays import ArraySource
from bbx.calibration.data.coco import coco_source
from bbx.calibration.data.record import CalibrationRecord, is_record, record_from
from bbx.calibration.data.rows import Feeder
from bbx.calibration.data.source import ACCEPTED, FileSource, NoiseSource, Source, folder_source, list_source
from bbx.datasets.files import json_in
from bbx.errors import ArtifactError, BbxError, UsageError

_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif"}


def open_source(path: Path, feeder: Feeder) -> tuple[Source, CalibrationRecord | None]:
    """The source that a path names, and the record, if that is what stands there.

    Raises:
        BbxError: there is nothing, it is of no kind that bbx knows, or it does not fit the network.
        ArtifactError: a record cannot be read.
    """
    if path.is_dir():
        return folder_source(path, feeder), None
    if not path.is_file():
        raise BbxError(f"There is no calibration data {path}.", hint=f"Name {ACCEPTED}.")
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return ArraySource(path, feeder), None
    if suffix == ".json":
        return _json_source(path, feeder)
    if suffix in _PICTURES:
        raise BbxError(f"{path} is one image, and calibration takes many.", hint=f"Name {ACCEPTED}.")
    return list_source(path, feeder), None


def _json_source(path: Path, feeder: Feeder) -> tuple[Source, CalibrationRecord | None]:
    document = json_document(path)
    if is_record(document):
        record = record_from(document, path)
        return _source_of_record(record, feeder), record
    return coco_source(path, document, feeder), None


def json_document(path: Path) -> Mapping[str, Any]:
    """What stands in a JSON file: a record or COCO's annotations.

    Raises:
        BbxError: it cannot be read, or is something else.
    """
    document = json_in(path)
    if not isinstance(document, dict) or not (is_record(document) or "images" in document):
        raise BbxError(f"{path} is neither a COCO file nor a calibration record.", hint=f"Name {ACCEPTED}.")
    return document


def _source_of_record(record: CalibrationRecord, feeder: Feeder) -> Source:
    """The images that a record names, as a source of the same kind.

    Raises:
        UsageError: they were given in Python and stand in no file.
        BbxError: they are no input of this network.
    """
    if record.source == "random":
        return NoiseSource(record.found, record.seed, feeder)
    if record.root is None:
        raise UsageError(
            "The images of this record were given in Python and stand in no file.",
            hint="Give the same data again, in Python.",
        )
    root = Path(record.root)
    if record.source == "arrays":
        path = root / record.images[0].path
        if not path.is_file():
            raise ArtifactError(f"The calibration data {path} is not there any more.")
        return ArraySource(path, feeder)
    annotations = root / record.annotations.path if record.annotations else None
    entries = [image.entry for image in record.images]
    return FileSource(record.source, root, entries, feeder, annotations=annotations)
