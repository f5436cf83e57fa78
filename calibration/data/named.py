"""The files that calibration data hangs on, whatever kind of data it is."""

from __future__ import annotations

from pathlib import Path

from bbx.calibration.data.opening import json_document
from bbx.calibration.data.record import is_record, record_from
from bbx.calibration.data.source import listed
from bbx.datasets.coco import read_coco
from bbx.errors import BbxError


def files_of(path: Path) -> list[Path]:
    """What has to stay the same for the data to be the same: the file that is named, and all that it names.

    Args:
        path: what `bbx.calibration.data.opening.open_source` takes.

    Returns:
        Each file once. What does not exist is left out, and so is what is named by a file that cannot be
        read.
    """
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if not path.is_file():
        return []
    try:
        named = _named_by(path)
    except BbxError:  # what cannot be read makes nothing: whoever opens it says what is wrong with it
        named = []
    return list(dict.fromkeys(file for file in (path, *named) if file.is_file()))


def _named_by(path: Path) -> list[Path]:
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return []
    if suffix != ".json":
        return [path.parent / entry.path for entry in listed(path)]
    document = json_document(path)
    if not is_record(document):
        coco = read_coco(path, document)
        return [coco.root / image.file for image in coco.images]
    record = record_from(document, path)
    if record.root is None:
        return []
    annotations = [record.annotations.path] if record.annotations else []
    return [Path(record.root) / name for name in (*annotations, *(image.path for image in record.images))]
