"""Calibration data from COCO annotation files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bbx.errors import BbxError

CATEGORIES = [{"id": 3, "name": "cup"}, {"id": 9, "name": "cat"}]


def _document(paths: list[Path], folder: str = "") -> dict[str, Any]:
    """Every image with one box of `cup`, the first with one of `cat` too."""
    images = [
        {"id": 10 + index, "file_name": f"{folder}{path.name}", "width": 110, "height": 110}
        for index, path in enumerate(paths)
    ]
    boxes = [{"image_id": image["id"], "category_id": 3, "bbox": [0, 0, 110.4, 20.5]} for image in images]
    boxes.append({"image_id": 10, "category_id": 9, "bbox": [5.5, 5, 20, 20]})
    return {"images": images, "annotations": boxes, "categories": CATEGORIES}


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("photos/labels.json", "photos/000.png"),
        ("labels.json", "images/000.png"),
        ("annotations/labels.json", "images/000.png"),
        ("annotations/instances_val2017.json", "val2017/000.png"),
    ],
)
def test_images_are_found_where_they_usually_are(
    tmp_path: Path, pictures: Any, sample: Any, file: str, image: str
) -> None:
    paths = pictures(Path(image).parent, 5)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(_document(paths)))
    made = sample(tmp_path / file)
    assert [image.labels for image in made.record.images] == [("cat", "cup")] + [("cup",)] * 4
    assert made.record.classes == ("cat", "cup")
    assert made.record.source == "coco"
    assert (Path(made.record.root) / made.record.annotations.path).samefile(tmp_path / file)
    assert sum(len(feeds["images"]) for feeds in made.batches(split="all")) == 5


def test_file_names_may_have_folders(tmp_path: Path, pictures: Any, sample: Any) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(_document(pictures("photos", 5), folder="photos/")))
    made = sample(tmp_path / "labels.json")
    assert [image.path for image in made.record.images] == [f"photos/{index:03d}.png" for index in range(5)]


def _without_images(document: dict[str, Any]) -> None:
    document["images"] = []


def _unknown_category(document: dict[str, Any]) -> None:
    document["annotations"][1]["category_id"] = 4


def _unknown_image(document: dict[str, Any]) -> None:
    document["annotations"][1]["image_id"] = 99


def _nameless(document: dict[str, Any]) -> None:
    del document["images"][2]["file_name"]


def _missing(document: dict[str, Any]) -> None:
    document["images"][2]["file_name"] = "nothing.png"


def _box(*numbers: Any) -> Any:
    def change(document: dict[str, Any]) -> None:
        document["annotations"][1]["bbox"] = list(numbers)

    change.__name__ = f"box {numbers}"
    return change


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (_without_images, "lists no images"),
        (_unknown_category, "annotation of image 11 is of category 4, and the file lists no such category"),
        (_unknown_image, "an annotation is of image 99, and there is no such image"),
        (_nameless, "an entry lacks `file_name`"),
        (_missing, r"names files that do not exist: .*nothing\.png \(image 12\)"),
        (_box(100, 5, 20, 5), r"the box \[100, 5, 20, 5\] of image 11 leaves the image, which is 110 × 110"),
        (_box(5, 100, 5, 20), "leaves the image"),
        (_box(-2, 0, 5, 5), "leaves the image"),
        (_box(5, 5, -1, 5), "leaves the image"),
        (_box(5, 5, 5), r"a box of image 11 is \[5, 5, 5\]"),
        (_box(5, 5, math.nan, 5), "a box of image 11 is"),
        (_box("5", 5, 5, 5), "a box of image 11 is"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_files_that_contradict_themselves(
    tmp_path: Path, pictures: Any, sample: Any, change: Any, wanted: str
) -> None:
    document = _document(pictures("photos", 4))
    change(document)
    (tmp_path / "photos" / "labels.json").write_text(json.dumps(document))
    with pytest.raises(BbxError, match=wanted):
        sample(tmp_path / "photos" / "labels.json")


@pytest.mark.parametrize("text", ["{", '{"some": "json"}', "[1, 2]", ""])
def test_other_json_is_an_error(tmp_path: Path, sample: Any, text: str) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(
        BbxError, match=r"cannot be read as JSON|neither a COCO file nor a calibration record"
    ):
        sample(tmp_path / "labels.json")
