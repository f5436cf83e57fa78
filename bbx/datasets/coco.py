"""COCO annotation files: the images, what is on them and the names of their categories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bbx import images
from bbx.datasets.base import BACKGROUND, Boxes, Dataset
from bbx.datasets.files import json_in, require_files
from bbx.datasets.numbering import numbered
from bbx.datasets.outlines import Outline
from bbx.errors import BbxError

_TOLERANCE = 1.0
"""Pixels by which a box may leave its image: COCO's own boxes are rounded."""


@dataclass(frozen=True, slots=True)
class CocoObject:
    """One annotation.

    Attributes:
        category: its id.
        box: x, y, width, height in pixels; None where there is none.
        area: in square pixels, as the file says; None where it does not.
        crowd: whether it is around many of them.
        outline: None where there is none.
        keypoints: x, y and visibility of each, one after another; None where there are none.
    """

    category: Any
    box: tuple[float, float, float, float] | None
    area: float | None
    crowd: bool
    outline: Outline | None = None
    keypoints: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image of an annotation file.

    Attributes:
        identity: its id.
        file: relative to the root.
        size: width and height in pixels; None where the file does not say.
        objects: what is on it.
    """

    identity: Any
    file: str
    size: tuple[int, int] | None
    objects: tuple[CocoObject, ...]


@dataclass(frozen=True, slots=True)
class CocoFile:
    """An annotation file that does not contradict itself.

    Attributes:
        root: the folder that its images' names are relative to.
        images: in the file's order.
        categories: names by id, in the order of the ids.
        keypoints: names of an object's; empty where no annotation has any, or not all have the same.
    """

    root: Path
    images: tuple[CocoImage, ...]
    categories: Mapping[Any, str]
    keypoints: tuple[str, ...] = ()


class CocoDetection(Dataset):
    """The images of an annotation file, with their boxes, outlines and keypoints.

    Args:
        path: of the file.
        classes: names in the network's numbering, the background first; None takes the file's categories in
            the order of their ids.

    Raises:
        BbxError: as `read_coco`; an annotation has no box; or a category is none of the classes.
    """

    task = "detection"

    def __init__(self, path: Path, classes: Sequence[str] | None = None) -> None:
        self._coco = read_coco(path, document_of(path))
        names = list(self._coco.categories.values())
        self.classes = tuple(classes or (BACKGROUND, *names))
        places = numbered(names, self.classes, path)
        self._labels = dict(zip(self._coco.categories, places, strict=True))
        self.keypoints = self._coco.keypoints
        for image in self._coco.images:
            if any(each.box is None for each in image.objects):
                raise BbxError(f"{path}: an annotation of image {image.identity} has no `bbox`.")

    def __len__(self) -> int:
        return len(self._coco.images)

    def name(self, index: int) -> str:
        return self._coco.images[index].file

    def image(self, index: int) -> Image.Image:
        about = self._coco.images[index]
        image = images.decode(self._coco.root / about.file)
        if about.size is not None and image.size != about.size:
            raise BbxError(
                f"{self._coco.root / about.file} is {image.width} × {image.height} upright, and its boxes "
                f"are for {about.size[0]} × {about.size[1]}."
            )
        return image

    def target(self, index: int) -> Boxes:
        objects = self._coco.images[index].objects
        corners = np.array([each.box for each in objects], dtype=np.float64).reshape(-1, 4)
        sides = corners[:, 2:].copy()
        corners[:, 2:] += corners[:, :2]
        areas = [
            w * h if each.area is None else each.area for each, (w, h) in zip(objects, sides, strict=True)
        ]
        outlines = [each.outline for each in objects if each.outline is not None]
        return Boxes(
            boxes=corners,
            labels=np.array([self._labels[each.category] for each in objects], dtype=np.int64),
            crowd=np.array([each.crowd for each in objects], dtype=np.bool_),
            areas=np.array(areas, dtype=np.float64),
            outlines=None if len(outlines) < len(objects) else tuple(outlines),
            keypoints=self._keypoints(objects) if self.keypoints else None,
        )

    def _keypoints(self, objects: Sequence[CocoObject]) -> NDArray[np.float64]:
        """float64 [N, K, 3]; of an object without any, none is labelled."""
        none = (0.0,) * (3 * len(self.keypoints))
        rows = [none if each.keypoints is None else each.keypoints for each in objects]
        return np.array(rows, dtype=np.float64).reshape(-1, len(self.keypoints), 3)


def document_of(path: Path) -> Mapping[str, Any]:
    """A JSON file that may be COCO's.

    Raises:
        BbxError: it cannot be read, or is something else.
    """
    document = json_in(path)
    if not isinstance(document, dict) or "images" not in document:
        raise BbxError(f"{path} is no COCO file: it has no `images`.")
    return document


def read_coco(path: Path, document: Mapping[str, Any]) -> CocoFile:
    """The contents of an annotation file, checked.

    Images are looked for beside the file, in `images` and in a folder with the file's name beside it or
    beside its folder, and where COCO itself has them: of `annotations/instances_val2017.json` in `val2017`
    beside `annotations`.

    Raises:
        BbxError: it has no images, names files that do not exist, a box leaves its image, a category is
            unknown, or keypoints are no numbers.
    """
    listed = document["images"]
    if not isinstance(listed, list) or not listed:
        raise BbxError(f"{path} lists no images.", hint="A COCO file has them under `images`.")
    found = {
        _field(path, kind, "id"): str(kind.get("name", kind["id"])) for kind in document.get("categories", ())
    }
    objects = _objects(path, document, found)
    entries = tuple(
        CocoImage(
            identity=image["id"],
            file=str(_field(path, image, "file_name")),
            size=(image["width"], image["height"]) if {"width", "height"} <= image.keys() else None,
            objects=tuple(objects[image["id"]]),
        )
        for image in listed
    )
    root = _root(path, entries[0].file)
    require_files([(f"image {each.identity}", root / each.file) for each in entries], f"{path} names files")
    ordered = sorted(found) if all(isinstance(each, int) for each in found) else list(found)
    categories = {identity: found[identity] for identity in ordered}
    return CocoFile(root, entries, categories, _keypoint_names(document, entries))


def _keypoint_names(document: Mapping[str, Any], entries: Sequence[CocoImage]) -> tuple[str, ...]:
    """What the categories call an object's keypoints, or numbers; see `CocoFile.keypoints`."""
    counts = {len(o.keypoints) // 3 for image in entries for o in image.objects if o.keypoints is not None}
    named = {
        tuple(map(str, kind["keypoints"])) for kind in document.get("categories", ()) if kind.get("keypoints")
    }
    if len(counts) != 1 or len(named) > 1:
        return ()
    (count,) = counts
    names = named.pop() if named else tuple(map(str, range(count)))
    return names if len(names) == count else ()


def _root(path: Path, first: str) -> Path:
    beside, above = path.parent, path.parent.parent
    folders = ("", "images", path.stem, path.stem.rpartition("_")[2])
    places = [place / folder for place in (beside, above) for folder in folders if folder or place == beside]
    return next((place for place in places if (place / first).is_file()), beside)


def _objects(
    path: Path, document: Mapping[str, Any], categories: Mapping[Any, str]
) -> dict[Any, list[CocoObject]]:
    """The annotations by their image's id; every one is checked on the way."""
    about = {_field(path, image, "id"): image for image in document["images"]}
    objects: dict[Any, list[CocoObject]] = {identity: [] for identity in about}
    for annotation in document.get("annotations", ()):
        identity, category = _field(path, annotation, "image_id"), _field(path, annotation, "category_id")
        if identity not in about:
            raise BbxError(f"{path}: an annotation is of image {identity}, and there is no such image.")
        if category not in categories:
            raise BbxError(
                f"{path}: an annotation of image {identity} is of category {category}, and the file "
                f"lists no such category."
            )
        box = _box(path, annotation["bbox"], about[identity]) if "bbox" in annotation else None
        objects[identity].append(
            CocoObject(
                category,
                box,
                area=annotation.get("area"),
                crowd=bool(annotation.get("iscrowd", 0)),
                # Tools write an empty list where there is none.
                outline=annotation.get("segmentation") or None,
                keypoints=_points(path, annotation.get("keypoints"), identity),
            )
        )
    return objects


def _box(path: Path, box: Any, image: Mapping[str, Any]) -> tuple[float, float, float, float]:
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
    return x, y, w, h


def _points(path: Path, keypoints: Any, image: Any) -> tuple[float, ...] | None:
    if not keypoints:
        return None
    numbers = isinstance(keypoints, list) and all(
        isinstance(each, int | float) and math.isfinite(each) for each in keypoints
    )
    if not numbers or len(keypoints) % 3:
        raise BbxError(
            f"{path}: the keypoints of an object on image {image} are no list of x, y and visibility of each."
        )
    return tuple(keypoints)


def _field(path: Path, item: Any, name: str) -> Any:
    if not isinstance(item, Mapping) or name not in item:
        raise BbxError(f"{path}: an entry lacks `{name}`: {str(item)[:80]}.")
    return item[name]
