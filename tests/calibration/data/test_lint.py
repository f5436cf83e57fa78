"""What the lint finds, on real pictures."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from bbx import images
from bbx.types import TensorSpec


def _kinds(made: Any) -> dict[str, Any]:
    return {finding.kind: finding for finding in made.findings}


def test_good_data_has_no_findings(
    tmp_path: Path, pictures: Any, sample: Any, warnings_told: list[str]
) -> None:
    pictures("photos", 40)
    pictures("others", 40, start=40)
    assert sample(tmp_path / "photos", evaluation=str(tmp_path / "others")).findings == ()
    assert warnings_told == []


def test_few_images(tmp_path: Path, pictures: Any, sample: Any, warnings_told: list[str]) -> None:
    pictures("photos", 31)
    finding = _kinds(sample(tmp_path / "photos"))["too_few"]
    assert finding.severity == "warning"
    assert "31 images are few" in finding.text
    assert [text for text in warnings_told if "31 images are few" in text]
    pictures("photos", 1, start=31)
    assert "too_few" not in _kinds(sample(tmp_path / "photos"))


def _compressed(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Image.open(stream)


CHANGES = {
    "copied": lambda image: image,
    "halved": lambda image: image.resize((image.width // 2, image.height // 2)),
    "doubled": lambda image: image.resize((image.width * 2, image.height * 2)),
    "compressed": _compressed,
    "flatter": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "rotated and marked so": None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_near_duplicates_are_found(tmp_path: Path, pictures: Any, sample: Any, change: str) -> None:
    paths = pictures("photos", 40)
    again = tmp_path / "photos" / "again.png"
    image = images.decode(paths[2])
    if CHANGES[change] is None:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(again, exif=exif)
    else:
        CHANGES[change](image).save(again)
    finding = _kinds(sample(tmp_path / "photos"))["near_duplicates"]
    assert finding.severity == "note"
    assert finding.images == ("again.png",)
    assert "1 of 41 images look like an earlier one: again.png like 002.png" in finding.text


@pytest.mark.parametrize("turn", [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180])
def test_a_turned_picture_is_another(
    tmp_path: Path, pictures: Any, sample: Any, turn: Image.Transpose
) -> None:
    paths = pictures("photos", 40)
    images.decode(paths[2]).transpose(turn).save(tmp_path / "photos" / "turned.png")
    assert "near_duplicates" not in _kinds(sample(tmp_path / "photos"))


def test_pieces_of_sky_are_no_duplicates(tmp_path: Path, pictures: Any, sample: Any) -> None:
    """Every smooth gradient looks like every other, so they are compared by content alone."""
    paths = pictures("photos", 40)
    for index in range(3):
        sky = np.arange(100, 100 + 64)[:, np.newaxis, np.newaxis] + np.arange(64)[:, np.newaxis] // (
            4 + index
        )
        Image.fromarray(np.broadcast_to(sky, (64, 64, 3)).astype(np.uint8)).save(paths[index])
    assert sample(tmp_path / "photos").findings == ()
    shutil.copy(paths[0], paths[1])
    assert _kinds(sample(tmp_path / "photos"))["near_duplicates"].images == ("001.png",)


def test_many_near_duplicates_are_a_warning(tmp_path: Path, pictures: Any, sample: Any) -> None:
    for path in pictures("photos", 36)[:3]:
        shutil.copy(path, path.with_name(f"again {path.name}"))
    finding = _kinds(sample(tmp_path / "photos"))["near_duplicates"]
    assert finding.severity == "warning"
    assert finding.text.startswith("3 of 39 images")


def test_constant_images(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos", 40)
    Image.new("RGB", (50, 40), (10, 200, 30)).save(tmp_path / "photos" / "green.jpg")
    Image.new("L", (64, 64), 7).save(tmp_path / "photos" / "grey.png")
    noisy = np.random.default_rng(0).integers(100, 103, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noisy).save(tmp_path / "photos" / "noisy.png")
    kinds = _kinds(sample(tmp_path / "photos"))
    assert set(kinds) == {"constant"}
    assert "3 of 43 images have one colour: green.jpg, grey.png, noisy.png" in kinds["constant"].text


def test_a_dot_makes_an_image_more_than_constant(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos", 40)
    image = Image.new("RGB", (64, 64), "white")
    image.putpixel((30, 30), (0, 0, 0))
    image.save(tmp_path / "photos" / "dot.png")
    assert sample(tmp_path / "photos").findings == ()


def test_overlap_with_the_evaluation(tmp_path: Path, pictures: Any, sample: Any) -> None:
    calibration = pictures("photos", 40)
    pictures("judged", 20, start=40)
    shutil.copy(calibration[7], tmp_path / "judged" / "same.png")
    images.decode(calibration[9]).save(tmp_path / "judged" / "compressed.jpg", quality=60)
    finding = _kinds(sample(tmp_path / "photos", evaluation=str(tmp_path / "judged")))["overlap"]
    assert finding.severity == "warning"
    assert finding.images == ("007.png", "009.png")
    assert "2 of 40" in finding.text
    assert "007.png is same.png, 009.png is compressed.jpg" in finding.text


def test_overlap_is_found_between_files_and_arrays(tmp_path: Path, pictures: Any, sample: Any) -> None:
    calibration = pictures("photos", 40)
    judged = np.stack([np.asarray(images.decode(path)) for path in calibration[37:39]])
    np.save(tmp_path / "judged.npy", judged)
    finding = _kinds(sample(tmp_path / "photos", evaluation=str(tmp_path / "judged.npy")))["overlap"]
    assert finding.images == ("037.png", "038.png")


def test_overlap_ignores_what_cannot_be_decoded(tmp_path: Path, pictures: Any, sample: Any) -> None:
    pictures("photos", 40)
    pictures("judged", 2, start=40)
    (tmp_path / "judged" / "broken.png").write_text("no picture")
    assert sample(tmp_path / "photos", evaluation=str(tmp_path / "judged")).findings == ()


def test_rows_of_floats_are_compared_too(tmp_path: Path, sample: Any) -> None:
    """Rows of an input that is no image are compared by content, those of one that is by look as well."""
    rows = np.random.default_rng(0).standard_normal((40, 3, 32, 32)).astype(np.float32)
    rows[5] = rows[4] * 0.9 + 0.1
    rows[6] = 0
    np.save(tmp_path / "rows.npy", rows)
    kinds = _kinds(sample(tmp_path / "rows.npy"))
    assert kinds["near_duplicates"].images == ("rows.npy[5]",)
    assert kinds["constant"].images == ("rows.npy[6]",)
    flat = rows.reshape(40, -1)
    flat[9] = flat[8]
    np.save(tmp_path / "flat.npy", flat)
    inputs = (TensorSpec("x", "float32", (None, 3 * 32 * 32)),)
    kinds = _kinds(sample(tmp_path / "flat.npy", inputs=inputs, preprocess=None))
    assert kinds["near_duplicates"].images == ("flat.npy[9]",)


def test_classes_that_are_not_in_the_sample(tmp_path: Path, pictures: Any, sample: Any) -> None:
    for index in range(5):
        pictures(f"photos/class {index}", 8, start=8 * index)
    assert "classes" not in _kinds(sample(tmp_path / "photos"))
    finding = _kinds(sample(tmp_path / "photos", images=3))["classes"]
    covered = {image.labels[0] for image in sample(tmp_path / "photos", images=3).images()}
    missing = [f"class {index}" for index in range(5) if f"class {index}" not in covered]
    assert f"{len(missing)} of 5 classes are not in the sample: {missing[0]}" in finding.text


def test_every_image_is_looked_at_once_and_small(
    tmp_path: Path, sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for path in images.photographs():
        shutil.copy(path, tmp_path / "photos" / path.name)
    sizes: dict[str, list[int]] = {}
    decode = images.decode

    def watched(path: Path, **more: Any) -> Image.Image:
        image = decode(path, **more)
        sizes.setdefault(path.name, []).append(min(image.size))
        return image

    monkeypatch.setattr(images, "decode", watched)
    sample(tmp_path / "photos", evaluation=str(tmp_path / "photos"))
    assert all(len(seen) == 2 for seen in sizes.values())  # once as calibration, once as evaluation
    assert max(max(seen) for seen in sizes.values()) <= 128
