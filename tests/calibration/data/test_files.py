"""Calibration data in image files: folders and lists."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bbx import images
from bbx.errors import BbxError
from bbx.types import Preprocess, TensorSpec


def _break(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


# --- folders ----------------------------------------------------------------------------------------


def test_a_folder_is_read_as_the_model_wants_it(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos", 10)
    made = sample(tmp_path / "photos", batch=4)
    given = np.concatenate([feeds["images"] for feeds in made.batches(split="all")])
    how = Preprocess(32, 32, crop_pct=1.0)
    wanted = [
        images.apply(images.decode(tmp_path / "photos" / image.path), how) for image in made.images("all")
    ]
    assert np.array_equal(given, np.stack(wanted))
    assert (given.dtype, given.shape) == (np.float32, (10, 3, 32, 32))
    assert made.record.preprocess == how
    assert (made.record.source, made.record.root) == ("folder", str(tmp_path / "photos"))


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_inputs_of_other_types(tmp_path: Path, pictures: Any, sample: Any, dtype: str) -> None:
    pictures("photos", 4)
    layout, shape = ("NHWC", (None, 32, 32, 3)) if dtype == "uint8" else ("NCHW", (None, 3, 32, 32))
    how = Preprocess(32, 32, dtype="uint8" if dtype == "uint8" else "float32", layout=layout)
    made = sample(tmp_path / "photos", inputs=(TensorSpec("x", dtype, shape),), preprocess=how)
    assert [(feeds["x"].dtype, feeds["x"].shape[1:]) for feeds in made.batches()] == [(dtype, shape[1:])]


def test_folders_of_classes_give_labels(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos/cat", 3)
    pictures("photos/dog/small", 3, start=3)
    made = sample(tmp_path / "photos")
    assert made.record.classes == ("cat", "dog")
    assert {image.path.split("/")[0] for image in made.images()} == {"cat", "dog"}
    assert all(image.labels == (image.path.split("/")[0],) for image in made.images())
    pictures("photos", 1, start=6)
    assert sample(tmp_path / "photos").record.classes == ()


def test_hidden_files_are_no_images(tmp_path: Path, pictures: Any, sample: Any) -> None:
    """Jupyter leaves copies, file managers small ones, and macOS files that are no images at all."""
    pictures("photos", 4)
    pictures("photos/.thumbnails", 4, start=4)
    (tmp_path / "photos" / "._00.png").write_bytes(b"Mac OS X")
    made = sample(tmp_path / "photos")
    assert made.record.found == 4
    assert not any(image.path.startswith(".") for image in made.images("all"))


@pytest.mark.parametrize("content", ["nothing", "text", "missing"])
def test_a_folder_without_images_is_an_error(tmp_path: Path, sample: Any, content: str) -> None:
    if content != "missing":
        (tmp_path / "photos").mkdir()
    if content == "text":
        for index in range(5):
            (tmp_path / "photos" / f"{index}.txt").write_text("hello")
    wanted = "There is no calibration data" if content == "missing" else "holds no image files"
    with pytest.raises(BbxError, match=wanted):
        sample(tmp_path / "photos")


def test_one_image_is_too_few(tmp_path: Path, pictures: Any, sample: Any) -> None:
    (path,) = pictures("photos", 1)
    with pytest.raises(BbxError, match="1 image was found, and calibration takes at least 2"):
        sample(tmp_path / "photos")
    with pytest.raises(BbxError, match="is one image, and calibration takes many"):
        sample(path)


def test_images_need_to_be_an_input(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos", 4)
    with pytest.raises(
        BbxError, match=r"nothing says how one becomes the graph's input: images float32 N×3×32"
    ):
        sample(tmp_path / "photos", preprocess=None)
    with pytest.raises(BbxError, match=r"gives float32 N×3×64×64, and the graph takes images float32 N×3×32"):
        sample(tmp_path / "photos", preprocess=Preprocess(64, 64))
    with pytest.raises(BbxError, match="gives uint8"):
        sample(tmp_path / "photos", preprocess=Preprocess(32, 32, dtype="uint8"))
    two = (TensorSpec("a", "float32", (None, 3, 32, 32)), TensorSpec("b", "float32", (None, 4)))
    with pytest.raises(BbxError, match=r"a float32 N×3×32×32, b float32 N×4"):
        sample(tmp_path / "photos", inputs=two)


# --- broken images ----------------------------------------------------------------------------------


def test_one_broken_image_in_a_hundred_is_skipped(
    tmp_path: Path, pictures: Any, sample: Any, warnings_told: list[str]
) -> None:
    paths = pictures("photos", 100, suffix="jpg")
    _break(paths[17])
    made = sample(tmp_path / "photos")
    assert [each.path for each in made.record.skipped] == ["017.jpg"]
    assert "017.jpg cannot be decoded" in made.record.skipped[0].reason
    assert str(tmp_path) not in made.record.skipped[0].reason
    assert len(made) == 99
    assert "017.jpg" not in {image.path for image in made.images()}
    assert [text for text in warnings_told if "017.jpg" in text]
    _break(paths[18])
    with pytest.raises(BbxError, match=r"2 images of 100 cannot be decoded.*017\.jpg.*018\.jpg"):
        sample(tmp_path / "photos")


def test_one_broken_image_in_fifty_is_too_many(tmp_path: Path, pictures: Any, sample: Any) -> None:
    paths = pictures("photos", 50, suffix="jpg")
    _break(paths[0])
    with pytest.raises(BbxError, match=r"1 images of 50 cannot be decoded, and at most 1 % may be: 000\.jpg"):
        sample(tmp_path / "photos")


def test_a_broken_image_is_replaced_by_another(tmp_path: Path, pictures: Any, sample: Any) -> None:
    paths = pictures("photos", 100, suffix="png")
    first = sample(tmp_path / "photos", images=99)
    for path in paths:
        if path.name not in {image.path for image in first.images()}:
            spare = path.name
    _break(tmp_path / "photos" / first.images()[5].path)
    second = sample(tmp_path / "photos", images=99)
    assert len(second) == 99
    assert spare in {image.path for image in second.images()}


def test_the_share_is_of_what_was_looked_at(tmp_path: Path, pictures: Any, sample: Any) -> None:
    """Fifty of a hundred are wanted, so the one broken among them is one in fifty-one."""
    pictures("photos", 100)
    _break(tmp_path / "photos" / sample(tmp_path / "photos", images=50).images()[7].path)
    with pytest.raises(BbxError, match="1 images of 51 cannot be decoded"):
        sample(tmp_path / "photos", images=50)


def test_names_that_cannot_be_recorded_are_errors(tmp_path: Path, pictures: Any, sample: Any) -> None:
    path = pictures("photos", 3)[0]
    path.rename(path.parent / os.fsdecode(b"\xff.png"))
    with pytest.raises(BbxError, match="is not UTF-8, and cannot be recorded"):
        sample(tmp_path / "photos")


def test_a_hopeless_folder_is_given_up_early(
    tmp_path: Path, sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for index in range(2000):
        (tmp_path / "photos" / f"{index}.jpg").write_text("no picture")
    seen: list[Path] = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda path, **more: seen.append(path) or decode(path, **more))
    with pytest.raises(BbxError, match="cannot be decoded, and at most 1 %"):
        sample(tmp_path / "photos", images=1000)
    assert 0 < len(seen) < 500


# --- lists ------------------------------------------------------------------------------------------


def test_a_list_names_images_and_labels(tmp_path: Path, pictures: Any, sample: Any) -> None:
    paths = pictures("photos", 4)
    paths[2].rename(tmp_path / "photos" / "a,b.png")
    lines = [
        "# a comment",
        "photos/000.png\tcat",
        "photos/001.png, dog",
        "",
        "photos/a,b.png",
        f"  {paths[3]}\t wild dog ",
    ]
    (tmp_path / "list.txt").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    made = sample(tmp_path / "list.txt")
    assert [(image.path, image.labels) for image in made.record.images] == [
        ("photos/000.png", ("cat",)),
        ("photos/001.png", ("dog",)),
        ("photos/a,b.png", ()),
        (str(paths[3]), ("wild dog",)),
    ]
    assert made.record.source == "list"
    assert sum(len(feeds["images"]) for feeds in made.batches(split="all")) == 4


def test_a_list_that_cannot_be_used_is_an_error(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos", 2)
    listed = tmp_path / "list.txt"
    listed.write_text("photos/000.png\nphotos/7.png\nphotos/8.png\n")
    with pytest.raises(
        BbxError, match=r"lists files that do not exist: .*7\.png \(line 2\), .*8\.png \(line 3\)"
    ):
        sample(listed)
    listed.write_text("\n# nothing\n")
    with pytest.raises(BbxError, match="lists no images"):
        sample(listed)
    listed.write_bytes(b"\xff\xfe\x00\x80\x81")
    with pytest.raises(BbxError, match=r"is no calibration data\. Name a folder of images, a text file"):
        sample(listed)


# --- Python -----------------------------------------------------------------------------------------


def test_anything_to_iterate_over(tmp_path: Path, pictures: Any, sample: Any) -> None:
    paths = pictures("photos", 6)
    folder = sample(tmp_path / "photos", batch=3)
    wanted = {image.path: image.sha256 for image in folder.images()}
    listed = sample(data=(str(path) for path in paths), batch=3)
    assert {image.path: image.sha256 for image in listed.images()} == wanted
    rows = {path.name: images.apply(images.decode(path), Preprocess(32, 32, crop_pct=1.0)) for path in paths}
    for data in (
        [Image.open(path) for path in paths],
        (np.asarray(images.decode(path)) for path in paths),
        iter(rows.values()),
        [{"images": row} for row in rows.values()],
    ):
        made = sample(data=data, batch=3)
        for _ in range(2):
            given = np.concatenate([feeds["images"] for feeds in made.batches(split="all")])
            names = [paths[image.row].name for image in made.images()]
            assert np.array_equal(given, np.stack([rows[name] for name in names]))
        assert made.record.source == "iterable"


def test_items_may_have_labels(tmp_path: Path, pictures: Any, sample: Any) -> None:
    paths = pictures("photos", 4)
    labelled = [(Image.open(path), index % 2) for index, path in enumerate(paths)]
    assert [image.labels for image in sample(data=labelled).record.images] == [("0",), ("1",), ("0",), ("1",)]


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ([], "has no items"),
        (
            [3, 4],
            r"Item 0 of the calibration data is of type int, and the graph takes images float32 N×3×32×32",
        ),
        ([np.zeros((3, 8, 8), np.float32)], r"gives images as float32 N×3×8×8"),
        ([np.full((3, 32, 32), np.inf, np.float32)], r"Item 0 .* holds infinity in images \(3072 of 3072"),
        ([{"x": np.zeros((3, 32, 32), np.float32)}], "has arrays for x, and the graph's inputs are images"),
        (["nothing.png"], r"files that do not exist: .*nothing\.png \(item 0\)"),
        ([Image.new("F", (4, 4), 7.0)], "nothing says which of them is white"),
    ],
)
def test_items_that_cannot_be_used(sample: Any, data: list[Any], wanted: str) -> None:
    with pytest.raises(BbxError, match=wanted):
        sample(data=data)


def test_paths_and_images_do_not_mix(pictures: Any, sample: Any) -> None:
    paths = pictures("photos", 2)
    with pytest.raises(BbxError, match="mixes paths with images"):
        sample(data=[paths[0], Image.open(paths[1])])
    with pytest.raises(BbxError, match="given twice"):
        sample(paths[0].parent, data=paths)


def test_what_was_kept_on_disk_goes_with_its_set(
    tmp_path: Path, pictures: Any, sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    made = sample(data=[Image.open(path) for path in pictures("photos", 3)])
    assert list(scratch.rglob("rows"))
    del made
    assert not list(scratch.iterdir())
