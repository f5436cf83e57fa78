"""Class folders, their splits, and how a dataset is divided."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bbx import process
from bbx.datasets import open_dataset, split, splits_of, subset
from bbx.errors import BbxError, UsageError

TASK = "classification"


def test_classes_are_the_folders_in_their_order(class_folders: Any) -> None:
    data = open_dataset(str(class_folders()), TASK)
    assert data.classes == ("blue", "red")
    assert len(data) == 8
    assert [data.target(index) for index in range(8)] == [0] * 4 + [1] * 4
    assert data.name(4) == "red/0.png"
    assert data.image(4).getpixel((0, 0)) == (255, 0, 0)


def test_the_order_of_classes_may_be_given(class_folders: Any) -> None:
    data = open_dataset(str(class_folders()), TASK, classes=["red", "green", "blue"])
    assert data.classes == ("red", "green", "blue")
    assert [data.target(index) for index in (0, 4)] == [2, 0]
    with pytest.raises(BbxError, match="has the classes red, which are none of the 1 asked for"):
        open_dataset(str(class_folders("again")), TASK, classes=["blue"])


@pytest.mark.parametrize("names", [("train", "val", "test"), ("training", "valid", "testing")])
def test_parts_are_found_by_their_usual_names(class_folders: Any, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names, start=1):
        folder = class_folders(f"data/{name}", count=number).parent
    assert splits_of(str(folder), TASK) == ("train", "val", "test")
    assert [len(open_dataset(str(folder), TASK, split=part)) for part in ("train", "val", "test")] == [
        2,
        4,
        6,
    ]
    with pytest.raises(UsageError, match="has the parts train, val, test, and none was named"):
        open_dataset(str(folder), TASK)


def test_a_list_of_classes_beside_the_folders_is_no_annotation(class_folders: Any) -> None:
    for name in ("train", "val"):
        folder = class_folders(f"data/{name}")
        (folder / "class_to_idx.json").write_text('{"blue": 0, "red": 1}')
    assert splits_of(str(folder.parent), TASK) == ("train", "val")
    assert open_dataset(str(folder.parent), TASK, split="val").classes == ("blue", "red")


def test_copies_in_hidden_folders_are_no_images_of_a_class(class_folders: Any) -> None:
    folder = class_folders()
    hidden = folder / "red" / ".ipynb_checkpoints"
    hidden.mkdir()
    (hidden / "0-checkpoint.png").write_bytes((folder / "red" / "0.png").read_bytes())
    assert len(open_dataset(str(folder), TASK)) == 8


def test_a_part_that_is_not_there_is_named(class_folders: Any) -> None:
    with pytest.raises(UsageError, match="has no part 'val'"):
        open_dataset(str(class_folders()), TASK, split="val")


def test_images_without_a_class_are_left_out_and_said(class_folders: Any) -> None:
    folder = class_folders()
    Image.new("RGB", (4, 4)).save(folder / "stray.png")
    (folder / "red" / "._0.png").write_bytes(b"what macOS leaves behind")
    with process.collecting_warnings() as warnings:
        data = open_dataset(str(folder), TASK)
    assert len(data) == 8
    assert ["stray.png" in warning for warning in warnings] == [True]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    with pytest.raises(BbxError, match="has no class folders, so that its images have no labels"):
        open_dataset(str(tmp_path), TASK)


def test_an_empty_class_is_named(class_folders: Any) -> None:
    folder = class_folders()
    (folder / "green").mkdir()
    with pytest.raises(BbxError, match="green holds no image files"):
        open_dataset(str(folder), TASK)


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BbxError, match=r"There is no data .*nothing"):
        open_dataset(str(tmp_path / "nothing"), TASK)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_data_of_another_task_is_refused(class_folders: Any, task: Any) -> None:
    with pytest.raises(BbxError, match=rf"is no data for {task}\. Name a"):
        open_dataset(str(class_folders()), task)


def test_a_broken_image_is_an_error_of_its_own(class_folders: Any) -> None:
    folder = class_folders()
    (folder / "red" / "0.png").write_text("this is text")
    data = open_dataset(str(folder), TASK)
    with pytest.raises(BbxError, match=r"red/0\.png cannot be decoded as an image"):
        data.image(4)
    assert data.image(5).size == (20, 10)


def test_each_class_is_divided_in_the_same_way(class_folders: Any) -> None:
    whole = open_dataset(str(class_folders(count=10, classes=("red", "blue", "green"))), TASK)
    first, second = split(whole, 0.2, seed=3)
    assert Counter(second.target(index) for index in range(len(second))) == {0: 2, 1: 2, 2: 2}
    names = [{part.name(index) for index in range(len(part))} for part in (first, second)]
    assert len(names[0]) == 24
    assert not names[0] & names[1]
    again, other = split(whole, 0.2, seed=3)[1], split(whole, 0.2, seed=4)[1]
    assert [again.name(index) for index in range(6)] == [second.name(index) for index in range(6)]
    assert [other.name(index) for index in range(6)] != [second.name(index) for index in range(6)]


def test_a_class_keeps_its_only_image_in_the_first_part(class_folders: Any) -> None:
    class_folders("data", count=3)
    folder = class_folders("data", count=1, classes=("green",))
    first, second = split(open_dataset(str(folder), TASK), 0.3, seed=0)
    assert 1 in {first.target(index) for index in range(len(first))}
    assert {second.target(index) for index in range(len(second))} == {0, 2}


def test_parts_that_would_be_empty_are_refused(class_folders: Any) -> None:
    whole = open_dataset(str(class_folders(count=1)), TASK)
    with pytest.raises(UsageError, match="2 images cannot be split in two parts"):
        split(whole, 0.5, seed=0)
    with pytest.raises(UsageError, match=r"A part of 1 cannot be split off"):
        split(whole, 1.0, seed=0)


def test_a_subset_has_its_own_order(class_folders: Any) -> None:
    whole = open_dataset(str(class_folders()), TASK)
    part = subset(whole, [5, 0])
    assert (len(part), part.classes) == (2, whole.classes)
    assert [part.name(index) for index in range(2)] == ["red/1.png", "blue/0.png"]
    assert part.target(0) == 1
    assert part.image(1).getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(IndexError):
        subset(whole, [8])
