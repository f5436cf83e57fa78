from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from bbx import images
from bbx.errors import BbxError
from bbx.types import Preprocess

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def _quarters(side: int = 64) -> Image.Image:
    """Red, green / blue, white."""
    image = Image.new("RGB", (side, side), RED)
    half = side // 2
    for colour, corner in ((GREEN, (half, 0)), (BLUE, (0, half)), (WHITE, (half, half))):
        image.paste(colour, (*corner, corner[0] + half, corner[1] + half))
    return image


# --- decoding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    upright = _quarters()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what a camera held that way would have stored
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "picture.png", exif=exif)
    assert np.array_equal(images.decode(tmp_path / "picture.png"), upright)


@pytest.mark.parametrize(
    ("values", "dtype", "wanted"),
    [
        ([[0, 65535]], np.uint16, [0, 255]),
        ([[0, 257 * 100]], np.uint16, [0, 100]),
        ([[0, 7]], np.uint8, [0, 7]),
    ],
)
def test_greys_become_eight_bits(
    tmp_path: Path, values: list[list[int]], dtype: type, wanted: list[int]
) -> None:
    Image.fromarray(np.array(values, dtype)).save(tmp_path / "grey.png")
    decoded = np.asarray(images.decode(tmp_path / "grey.png"))
    assert decoded.shape == (1, 2, 3)
    assert decoded[0, :, 0].tolist() == wanted
    assert (decoded == decoded[..., :1]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    if mode == "P":
        picture = picture.convert("P")
        picture.info["transparency"] = picture.getpixel((0, 0))
    picture.convert(mode).save(tmp_path / "clear.png", transparency=picture.info.get("transparency"))
    assert np.asarray(images.decode(tmp_path / "clear.png")).min() == 255


@pytest.mark.parametrize("mode", ["CMYK", "1", "YCbCr"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    name = "picture.png" if mode == "1" else "picture.jpg"
    Image.new("RGB", (8, 8), WHITE).convert(mode).save(tmp_path / name)
    assert np.asarray(images.decode(tmp_path / name)).shape == (8, 8, 3)


def test_what_cannot_be_decoded_is_one_line(tmp_path: Path) -> None:
    whole = (images.PHOTOGRAPHS / "coffee.jpg").read_bytes()
    broken = {
        "cut.jpg": whole[:2000],
        "empty.jpg": b"",
        "text.png": b"hello",
        "cut.png": b"\x89PNG\r\n\x1a\n",
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BbxError, match="cannot be decoded") as caught:
            images.decode(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(BbxError, match="There is no image"):
        images.decode(tmp_path / "nothing.jpg")


# --- preprocessing ----------------------------------------------------------------------------------


def test_bytes_are_the_picture_itself() -> None:
    how = Preprocess(64, 64, crop_pct=1.0, dtype="uint8", layout="NHWC")
    assert np.array_equal(images.apply(_quarters(), how), np.asarray(_quarters()))


def test_floats_are_normalised_per_channel() -> None:
    how = Preprocess(64, 64, crop_pct=1.0, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.4))
    given = images.apply(_quarters(), how)
    assert (given.shape, given.dtype) == ((3, 64, 64), np.float32)
    assert given[:, 0, 0] == pytest.approx([(1 - 0.5) / 0.1, (0 - 0.4) / 0.2, (0 - 0.3) / 0.4], abs=1e-5)
    assert given[:, -1, -1] == pytest.approx([5, 3, 1.75], abs=1e-5)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (37, 500), (8, 8)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 32), (32, 96)])
def test_any_picture_fits_any_input(size: tuple[int, int], height: int, width: int) -> None:
    how = Preprocess(height, width, crop_pct=0.875)
    assert images.apply(Image.new("RGB", size), how).shape == (3, height, width)


def test_the_crop_is_the_centre() -> None:
    wide = Image.new("RGB", (300, 100), RED)
    wide.paste(BLUE, (100, 0, 200, 100))
    crop = images.apply(wide, Preprocess(50, 50, crop_pct=1.0, dtype="uint8", layout="NHWC"))
    assert (crop[:, 3:-3] == BLUE).all()


def test_torchvisions_own_transform_gives_the_same() -> None:
    from torchvision.models import ResNet50_Weights

    transform = ResNet50_Weights.IMAGENET1K_V1.transforms()
    how = Preprocess(224, 224, crop_pct=224 / 256)
    for path in images.photographs():
        theirs = transform(images.decode(path)).numpy()
        assert np.abs(images.apply(images.decode(path), how) - theirs).mean() < 0.01


# --- batches ----------------------------------------------------------------------------------------


def test_photographs_repeat_mirrored() -> None:
    how = Preprocess(32, 32)
    count = len(images.photographs())
    assert count >= 4
    batch = images.photograph_batch(how, 2 * count + 1)
    first = images.apply(images.decode(images.photographs()[0]), how)
    mirrored = images.apply(ImageOps.mirror(images.decode(images.photographs()[0])), how)
    assert np.array_equal(batch[0], first)
    assert np.array_equal(batch[count], mirrored)
    assert np.array_equal(batch[2 * count], first)
    assert not np.array_equal(first, mirrored)
    assert np.array_equal(images.photograph_batch(how, 2, start=1), batch[1:3])


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_noise_is_seeded(dtype: str) -> None:
    how = Preprocess(16, 24, dtype=dtype, layout="NHWC" if dtype == "uint8" else "NCHW")
    noise = images.noise_batch(how, 3, seed=1)
    assert noise.shape == ((3, 16, 24, 3) if dtype == "uint8" else (3, 3, 16, 24))
    assert noise.dtype == dtype
    assert np.array_equal(noise, images.noise_batch(how, 3, seed=1))
    assert not np.array_equal(noise, images.noise_batch(how, 3, seed=2))


def test_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    _quarters().save(tmp_path / "b" / "two.PNG")
    _quarters().save(tmp_path / "one.jpg")
    (tmp_path / "notes.txt").touch()
    files = images.image_files(tmp_path)
    assert [file.name for file in files] == ["two.PNG", "one.jpg"]
    assert images.file_batch(files, Preprocess(8, 8)).shape == (2, 3, 8, 8)


def test_a_folder_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BbxError, match="holds no image files"):
        images.image_files(tmp_path)
    with pytest.raises(BbxError, match="There is no folder"):
        images.image_files(tmp_path / "nothing")
