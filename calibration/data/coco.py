"""The images of a COCO annotation file, with the names of the categories that are on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bbx.calibration.data.rows import Feeder
from bbx.calibration.data.source import Entry, FileSource, require_files
from bbx.errors import BbxError

_TOLERANCE = 1.0
"""Pixels by which a box may leave its image: COCO's own boxes are rounded."""


def coco_source(path: Path, document: Mapping[str, Any], feeder: Feeder) -> FileSource:
    """The images of an annotation file.

    They are looked for beside the file, in `images` beside it or beside its folder, and where COCO itself has
    them: of `annotations/instances_val2017.json` in `val2017` beside `annotations`.

    Raises:
        BbxError: it has no images, names files that do not exist, a box leaves its image, or a category is
            unknown.
    """
    images = document.get("images")
    if not isinstance(images, list) or not images:
        raise BbxError(f"{path} lists no images.", hint="A COCO file has them under `images`.")
    names = _labels(path, document)
    entries = [
        Entry(str(_field(path, image, "file_name")), labels=tuple(sorted(names[image["id"]])))
        for image in images
    ]
    root = _root(path, entries)
    files = [
        (f"image {image['id']}", root / entry.path) for image, entry in zip(images, entries, strict=True)
    ]
    require_files(files, f"{path} names files")
    return FileSource("coco", root, entries, feeder, annotations=path)


def _root(path: Path, entries: list[Entry]) -> Path:
    beside, above = path.parent, path.parent.parent
    places = (beside, beside / "images", above / "images", above / path.stem.rpartition("_")[2])
    return next((place for place in places if (place / entries[0].path).is_file()), beside)


def _labels(path: Path, document: Mapping[str, Any]) -> dict[Any, set[str]]:
    """The categories on each image, by the image's id; every annotation is checked on the way."""
    images = {_field(path, image, "id"): image for image in document["images"]}
    categories = {
        _field(path, kind, "id"): str(kind.get("name", kind["id"])) for kind in document.get("categories", ())
    }
    labels: dict[Any, set[str]] = {identity: set() for identity in images}
    for annotation in document.get("annotations", ()):
        identity, category = _field(path, annotation, "image_id"), _field(path, annotation, "category_id")
        if identity not in images:
            raise BbxError(f"{path}: an annotation is of image {identity}, and there is no such image.")
        if category not in categories:
            raise BbxError(
                f"{path}: an annotation of image {identity} is of category {category}, and the file "
                f"lists no such category."
            )
        if "bbox" in annotation:
            _check_box(path, annotation["bbox"], images[identity])
        labels[identity].add(categories[category])
    return labels


def _check_box(path: Path, box: Any, image: Mapping[str, Any]) -> None:
    numbers = (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(n, int | float) and math.isfinite(n) for n in box)
    )
    if not numbers:
        raise BbxError(f"{path}: a box of image {image['id']} is {box}, and a box is [x, y, width, height].")
    width, height = _field(path, image, "width"), _field(path, image, "height")
    x, y, w, h = box
    inside = min(x, y) >= -_TOLERANCE and x + w <= width + _TOLERANCE and y + h <= height + _TOLERANCE
    if min(w, h) < 0 or not inside:
        raise BbxError(
            f"{path}: the box {box} of image {image['id']} leaves the image, which is {width} × {height}."
        )


def _field(path: Path, item: Any, name: str) -> Any:
    if not isinstance(item, Mapping) or name not in item:
        raise BbxError(f"{path}: an entry lacks `{name}`: {str(item)[:80]}.")
    return item[name]
