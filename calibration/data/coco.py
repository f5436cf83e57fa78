"""The images of a COCO annotation file, with the names of the categories that are on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bbx.calibration.data.rows import Feeder
from bbx.calibration.data.source import Entry, FileSource
from bbx.datasets.coco import read_coco


def coco_source(path: Path, document: Mapping[str, Any], feeder: Feeder) -> FileSource:
    """The images of an annotation file; see `bbx.datasets.coco.read_coco` for where they are looked for.

    Raises:
        BbxError: it has no images, names files that do not exist, a box leaves its image, or a category is
            unknown.
    """
    coco = read_coco(path, document)
    entries = [
        Entry(image.file, labels=tuple(sorted({coco.categories[each.category] for each in image.objects})))
        for image in coco.images
    ]
    return FileSource("coco", coco.root, entries, feeder, annotations=path)
