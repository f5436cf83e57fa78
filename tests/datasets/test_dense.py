"""Boxes from COCO files and masks from folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bbx.datasets import IGNORED, Boxes, open_dataset, pixels, splits_of, subset
from bbx.errors import BbxError, UsageError
from bbx.evaluation.run import manifest_sha256

DOCUMENT: dict[str, Any] = {
    "images": [
        {"id": 5, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 7, "file_name": "b.png", "width": 40, "height": 30},
    ],
    "annotations": [
        {"image_id": 5, "category_id": 9, "bbox": [1, 2, 10, 20], "area": 150.5},
        {"image_id": 5, "category_id": 3, "bbox": [4, 4, 6, 6], "iscrowd": 1},
    ],
    "categories": [{"id": 9, "name": "cat"}, {"id": 3, "name": "cup"}],
}


def _coco(folder: Path, file: str = "labels.json", **changes: Any) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30)).save(folder / "images" / name)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps({**DOCUMENT, **changes}))
    return folder / file


def _boxes(target: Any) -> Boxes:
    assert isinstance(target, Boxes)
    return target


def test_boxes_are_corners_and_labels_follow_the_ids(tmp_path: Path) -> None:
    data = open_dataset(str(_coco(tmp_path)), "detection")
    assert data.classes == ("background", "cup", "cat")
    assert (len(data), data.name(1)) == (2, "b.png")
    found = _boxes(data.target(0))
    assert found.boxes.tolist() == [[1, 2, 11, 22], [4, 4, 10, 10]]
    assert found.labels.tolist() == [2, 1]
    assert found.crowd.tolist() == [False, True]
    assert found.areas.tolist() == [150.5, 36.0]
    nothing = _boxes(data.target(1))
    assert (nothing.boxes.shape, len(nothing)) == ((0, 4), 0)


def _with_parts(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations with outlines and keypoints, changed one by one."""
    parts = {"segmentation": [[1, 2, 11, 2, 11, 22, 1, 22]], "keypoints": [1, 2, 2, 11, 22, 1]}
    return [
        {**each, **parts, **change} for each, change in zip(DOCUMENT["annotations"], changes, strict=True)
    ]


def test_the_hash_that_eval_gives_of_its_data_sees_outlines_and_keypoints(tmp_path: Path) -> None:
    ends = [{**each, "keypoints": ["head", "tail"]} for each in DOCUMENT["categories"]]
    changes: list[dict[str, Any]] = [
        {},
        {"segmentation": [[1, 2, 11, 2, 11, 22, 2, 22]]},
        {"keypoints": [1, 3, 2, 11, 22, 1]},
    ]
    hashes = set()
    for number, change in enumerate(changes):
        path = _coco(tmp_path / str(number), annotations=_with_parts(change, {}), categories=ends)
        hashes.add(manifest_sha256(open_dataset(str(path), "detection")))
    assert len(hashes) == len(changes)


def test_outlines_and_keypoints_are_those_of_the_file(tmp_path: Path) -> None:
    ends = ["head", "tail"]
    path = _coco(
        tmp_path,
        annotations=_with_parts({}, {"keypoints": []}),
        categories=[{**each, "keypoints": ends} for each in DOCUMENT["categories"]],
    )
    data = open_dataset(str(path), "detection")
    assert data.keypoints == subset(data, [0]).keypoints == ("head", "tail")
    found, nothing = _boxes(data.target(0)), _boxes(data.target(1))
    assert found.keypoints is not None
    assert found.keypoints.tolist() == [[[1, 2, 2], [11, 22, 1]], [[0, 0, 0], [0, 0, 0]]]
    assert found.outlines is not None
    inside = pixels(found.outlines, (40, 30))
    assert inside.shape == (2, 30, 40)
    assert np.argwhere(inside[0]).min(axis=0).tolist() == [2, 1]
    assert inside[0].sum() == 10 * 20
    assert nothing.outlines == ()
    assert nothing.keypoints is not None
    assert nothing.keypoints.shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("changes", "outlined", "keypoints"),
    [
        (({"segmentation": []}, {}), False, ("0", "1")),
        (({}, {"keypoints": [1, 2, 2]}), True, ()),
        (({"keypoints": []}, {"keypoints": []}), True, ()),
    ],
)
def test_boxes_are_read_where_outlines_or_keypoints_are_of_no_use(
    tmp_path: Path, changes: tuple[dict[str, Any], ...], outlined: bool, keypoints: tuple[str, ...]
) -> None:
    data = open_dataset(str(_coco(tmp_path, annotations=_with_parts(*changes))), "detection")
    found = _boxes(data.target(0))
    assert len(found) == 2
    assert (found.outlines is not None) == outlined
    assert data.keypoints == keypoints
    assert (found.keypoints is not None) == bool(keypoints)


def test_a_numbering_that_is_asked_for(tmp_path: Path) -> None:
    data = open_dataset(str(_coco(tmp_path)), "detection", classes=["background", "cat", "N/A", "cup"])
    assert _boxes(data.target(0)).labels.tolist() == [1, 3]
    with pytest.raises(BbxError, match="has the classes cup, which are none of the 2 asked for"):
        open_dataset(str(tmp_path), "detection", classes=["background", "cat"])


@pytest.mark.parametrize(
    "files",
    [
        ("train.json", "val.json"),
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
        ("annotations/train.json", "annotations/validation.json"),
    ],
)
def test_parts_are_found_by_their_files(tmp_path: Path, files: tuple[str, str]) -> None:
    _coco(tmp_path, files[0])
    _coco(tmp_path, files[1], annotations=[])
    assert splits_of(str(tmp_path), "detection") == ("train", "val")
    parts = [open_dataset(str(tmp_path), "detection", split=part) for part in ("train", "val")]
    assert [len(_boxes(part.target(0))) for part in parts] == [2, 0]


def test_parts_are_found_by_their_folders(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        _coco(tmp_path / part, "_annotations.coco.json")
    assert splits_of(str(tmp_path), "detection") == ("train", "val")
    assert len(open_dataset(str(tmp_path), "detection", split="val")) == 2


def test_of_several_files_none_is_guessed(tmp_path: Path) -> None:
    _coco(tmp_path, "one.json")
    _coco(tmp_path, "two.json")
    with pytest.raises(UsageError, match=r"has several \.json files: one\.json, two\.json"):
        open_dataset(str(tmp_path), "detection")


def test_an_image_of_another_size_than_its_boxes_is_named(tmp_path: Path) -> None:
    data = open_dataset(str(_coco(tmp_path)), "detection")
    Image.new("RGB", (30, 40)).save(tmp_path / "images" / "a.png")
    with pytest.raises(BbxError, match=r"a\.png is 30 × 40 upright, and its boxes are for 40 × 30"):
        data.image(0)


def test_an_annotation_without_a_box_is_named(tmp_path: Path) -> None:
    path = _coco(tmp_path, annotations=[{"image_id": 7, "category_id": 3}])
    with pytest.raises(BbxError, match="an annotation of image 7 has no `bbox`"):
        open_dataset(str(path), "detection")


def _masked(folder: Path, *masks: Any, names: str | None = None) -> Path:
    for each in ("images", "masks"):
        (folder / each).mkdir(parents=True)
    for number, mask in enumerate(masks):
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(np.asarray(mask, np.uint8))
        image.save(folder / "masks" / f"{number}.png")
        Image.new("RGB", image.size).save(folder / "images" / f"{number}.jpg")
    if names is not None:
        (folder / "classes.txt").write_text(names)
    return folder


def test_masks_are_numbers_and_255_is_nobodys(tmp_path: Path) -> None:
    folder = _masked(tmp_path / "data", [[0, 1], [2, IGNORED]], [[0, 0]], names="background\nroad\nsky\n")
    data = open_dataset(str(folder), "segmentation")
    assert data.classes == ("background", "road", "sky")
    assert data.named
    assert np.array_equal(data.target(0), [[0, 1], [2, IGNORED]])
    assert np.asarray(data.target(0)).dtype == np.uint8
    assert (data.name(1), data.image(1).size) == ("images/1.jpg", (2, 1))


def test_palette_and_16_bit_masks_are_numbers_too(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 2], [1, 1]], np.uint8), mode="P")
    palette.putpalette([value for colour in range(256) for value in (colour, 255 - colour, 7)])
    deep = Image.fromarray(np.array([[2, 0]], np.uint16))
    data = open_dataset(str(_masked(tmp_path / "data", palette, deep)), "segmentation")
    assert data.classes == ("background", "class 1", "class 2")
    assert not data.named
    assert np.array_equal(data.target(0), [[0, 2], [1, 1]])
    assert np.array_equal(data.target(1), [[2, 0]])


def test_names_may_be_numbered_in_another_way(tmp_path: Path) -> None:
    folder = _masked(tmp_path / "data", [[0, 1, 2, IGNORED]], names="background\nroad\nsky")
    data = open_dataset(str(folder), "segmentation", classes=["background", "sky", "tree", "road"])
    assert np.array_equal(data.target(0), [[0, 3, 1, IGNORED]])


def test_parts_of_masks_share_their_names(tmp_path: Path) -> None:
    for part in ("train", "val"):
        _masked(tmp_path / part, [[0, 1]])
    (tmp_path / "classes.txt").write_text("background\nroad")
    data = open_dataset(str(tmp_path), "segmentation", split="val")
    assert data.classes == ("background", "road")


def test_a_label_out_of_range_is_named_with_its_file(tmp_path: Path) -> None:
    folder = _masked(tmp_path / "data", [[0, 7]], names="background\nroad")
    data = open_dataset(str(folder), "segmentation")
    with pytest.raises(BbxError, match=r"0\.png has the label 7, and the 2 classes end at 1"):
        data.target(0)


def test_more_classes_than_a_mask_has_values_for_are_refused(tmp_path: Path) -> None:
    folder = _masked(tmp_path, Image.fromarray(np.full((4, 6), 300, np.uint16)))
    with pytest.raises(BbxError, match="has 301 classes, and masks may have 255 at most"):
        open_dataset(str(folder), "segmentation")


def test_masks_that_do_not_fit_their_images(tmp_path: Path) -> None:
    folder = _masked(tmp_path / "data", [[0, 1]], [[0, 1]])
    Image.new("RGB", (9, 9)).save(folder / "images" / "0.jpg")
    data = open_dataset(str(folder), "segmentation")
    with pytest.raises(BbxError, match=r"0\.jpg is 9 × 9 upright, and its mask 0\.png 2 × 1"):
        data.image(0)
    (folder / "masks" / "1.png").unlink()
    with pytest.raises(BbxError, match=r"images without a mask of the same name: 1\.jpg"):
        open_dataset(str(folder), "segmentation")


def test_a_mask_in_colours_is_no_mask(tmp_path: Path) -> None:
    folder = _masked(tmp_path / "data", Image.new("RGB", (4, 4)), names="background\nroad")
    data = open_dataset(str(folder), "segmentation")
    with pytest.raises(BbxError, match=r"has colours \(RGB\) and no class numbers"):
        data.target(0)


@pytest.mark.parametrize(
    ("text", "wanted"), [("a\nb\na", "names classes twice: a"), ("\n\n", "names no class")]
)
def test_names_that_are_none(tmp_path: Path, text: str, wanted: str) -> None:
    with pytest.raises(BbxError, match=wanted):
        open_dataset(str(_masked(tmp_path / "data", [[0]], names=text)), "segmentation")
