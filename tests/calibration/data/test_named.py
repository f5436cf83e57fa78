"""Which files calibration data hangs on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bbx.calibration.data.named import files_of


@pytest.fixture
def coco(tmp_path: Path, pictures: Any) -> Path:
    files = pictures("images", 3)
    listed = [
        {"id": number, "file_name": file.name, "width": 110, "height": 110}
        for number, file in enumerate(files)
    ]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": listed, "categories": [], "annotations": []}))
    return path


def test_a_folder_hangs_on_all_that_is_in_it(tmp_path: Path, pictures: Any) -> None:
    files = pictures("a/inner", 2)
    (tmp_path / "a" / "labels.txt").write_text("x")
    assert files_of(tmp_path / "a") == [*files, tmp_path / "a" / "labels.txt"]


def test_a_list_hangs_on_itself_and_its_images(tmp_path: Path, pictures: Any) -> None:
    files = pictures("a", 3)
    path = tmp_path / "list.txt"
    path.write_text("# comment\na/002.png\tcat\na/000.png,dog\n")
    assert files_of(path) == [path, files[2], files[0]]


def test_annotations_hang_on_their_images(coco: Path) -> None:
    folder = coco.parent / "images"
    assert files_of(coco) == [coco, *(folder / f"00{number}.png" for number in range(3))]


def test_a_record_hangs_on_what_it_was_made_of(coco: Path, sample: Any, tmp_path: Path) -> None:
    record = tmp_path / "calibration.json"
    sample(coco).record.write(record)
    folder = coco.parent / "images"
    assert {file.resolve() for file in files_of(record)} == {record, coco, *folder.iterdir()}


def test_arrays_hang_on_their_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros((2, 3, 4, 4), np.float32))
    assert files_of(path) == [path]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", b"nowhere.png\n"),
        ("picture.png", b"\x89PNG\xff"),
        ("other.json", b"{}"),
        ("bad.json", b"{"),
    ],
)
def test_what_cannot_be_read_hangs_on_itself(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert files_of(path) == [path]
    assert files_of(tmp_path / "missing.txt") == []
