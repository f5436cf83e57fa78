from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
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


def _pixels(path: Path) -> list[list[int]]:
    """The first line of a decoded image."""
    return np.asarray(images.decode(path))[0].tolist()


def _grey(*values: int) -> list[list[int]]:
    return [[value] * 3 for value in values]


def _words(*values: int) -> bytes:
    """Values of 16 bits, as PNG and PPM store them."""
    return struct.pack(f">{len(values)}H", *values)


@dataclass(frozen=True)
class Png:
    """A PNG of one line and what it shows; made chunk by chunk, since Pillow writes few of its depths.

    Attributes:
        colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.
        depth: bits a channel.
        chunks: what stands between the header and the pixels.
    """

    colour: int
    depth: int
    line: bytes
    shows: list[list[int]]
    chunks: dict[str, bytes] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        header = struct.pack(">IIBBBBB", len(self.shows), 1, self.depth, self.colour, 0, 0, 0)
        chunks = {"IHDR": header, **self.chunks, "IDAT": zlib.compress(b"\0" + self.line), "IEND": b""}
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(self._chunk(*chunk) for chunk in chunks.items()))

    @staticmethod
    def _chunk(name: str, content: bytes) -> bytes:
        body = name.encode() + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


CLEAR = [255, 255, 255]
PALETTE = {"PLTE": bytes([10, 20, 30, 40, 50, 60, 70, 80, 90])}
PNGS = {
    "1-bit": Png(0, 1, bytes([0b101_00000]), _grey(255, 0, 255)),
    "2-bit": Png(0, 2, bytes([0b00_01_10_11]), _grey(0, 85, 170, 255)),
    "4-bit": Png(0, 4, bytes([0x1F]), _grey(17, 255)),
    "8-bit": Png(0, 8, bytes([0, 7, 255]), _grey(0, 7, 255)),
    "16-bit": Png(0, 16, _words(0, 257 * 100, 0xFFFF, 255), _grey(0, 100, 255, 1)),
    "16-bit and dark": Png(0, 16, _words(0, 128, 255), _grey(0, 0, 1)),
    "2-bit with key": Png(0, 2, bytes([0b00_01_0000]), _grey(0, 255), {"tRNS": _words(1)}),
    "4-bit with key": Png(0, 4, bytes([0x12]), _grey(17, 255), {"tRNS": _words(2)}),
    "16-bit with key": Png(0, 16, _words(0, 9000), _grey(0, 255), {"tRNS": _words(9000)}),
    "RGB": Png(2, 8, bytes([1, 2, 3]), [[1, 2, 3]]),
    "RGB with key": Png(2, 8, bytes([1, 2, 3, 4, 5, 6]), [CLEAR, [4, 5, 6]], {"tRNS": _words(1, 2, 3)}),
    "16-bit RGB": Png(2, 16, _words(0, 0x8000, 0xFFFF, 0x1200, 0x0100, 0), [[0, 128, 255], [18, 1, 0]]),
    "RGBA": Png(6, 8, bytes([0, 0, 0, 0, 10, 20, 30, 255]), [CLEAR, [10, 20, 30]]),
    "16-bit RGBA": Png(6, 16, _words(0, 0, 0, 0, 0, 0xFFFF, 0, 0x8000), [CLEAR, [127, 255, 127]]),
    "grey and alpha": Png(4, 8, bytes([0, 0, 100, 255]), _grey(255, 100)),
    "16-bit grey and alpha": Png(4, 16, _words(0, 0, 0x8000, 0xFFFF), _grey(255, 128)),
    "palette": Png(3, 2, bytes([0b10_00_0000]), [[70, 80, 90], [10, 20, 30]], PALETTE),
    "palette with alpha": Png(
        3,
        8,
        bytes([0, 1, 2]),
        [CLEAR, [147, 152, 157], [70, 80, 90]],
        {**PALETTE, "tRNS": bytes([0, 128])},
    ),
}


@pytest.mark.parametrize("kind", PNGS)
def test_every_kind_of_png(tmp_path: Path, kind: str) -> None:
    PNGS[kind].save(tmp_path / "picture.png")
    assert _pixels(tmp_path / "picture.png") == PNGS[kind].shows


@pytest.mark.parametrize("name", ["ink.jpg", "ink.tif"])
def test_ink_becomes_light(tmp_path: Path, name: str) -> None:
    """A JPEG stores ink inverted, as Adobe's programs do, and says so; a TIFF does not."""
    ink = Image.new("CMYK", (64, 16))
    for index, colour in enumerate([(255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255), (0, 0, 0, 0)]):
        ink.paste(colour, (16 * index, 0, 16 * index + 16, 16))
    ink.save(tmp_path / name, **({"quality": 100} if name.endswith("jpg") else {}))
    if name.endswith("jpg"):
        assert b"Adobe" in (tmp_path / name).read_bytes()
    seen = _pixels(tmp_path / name)
    assert [seen[8], seen[24], seen[40], seen[56]] == [[0, 255, 255], [255, 0, 0], [0, 0, 0], [255, 255, 255]]


def test_ink_as_luma_and_chroma(tmp_path: Path) -> None:
    """What Photoshop writes (YCCK): the same file as of ink, with another transform in Adobe's marker."""
    path = tmp_path / "ink.jpg"
    seen = []
    # Stored inverted, so as luma, chroma, chroma and black these are 255, 128, 128, 255 and 0, 128, 128, 255.
    for ink in ((0, 127, 127, 0), (255, 127, 127, 0)):
        Image.new("CMYK", (8, 8), ink).save(path, quality=100)
        stored = bytearray(path.read_bytes())
        transform = stored.index(b"Adobe") + 11
        assert stored[transform] == 0
        stored[transform] = 2
        path.write_bytes(stored)
        seen.append(_pixels(path)[0])
    assert seen == [[0, 0, 0], [255, 255, 255]]


def test_the_ink_of_a_real_photograph(tmp_path: Path) -> None:
    """Converted to ink and back, a photograph stays itself; inverted, it would be its own negative."""
    photograph = images.decode(images.PHOTOGRAPHS / "coffee.jpg").resize((96, 64))
    photograph.convert("CMYK").save(tmp_path / "ink.jpg", quality=100)
    seen = np.asarray(images.decode(tmp_path / "ink.jpg"), np.float64)
    assert np.abs(seen - np.asarray(photograph)).mean() < 3


def test_floats_and_deep_integers(tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    Image.fromarray(np.float32([[0, 0.5, 1]])).save(path)
    assert _pixels(path) == _grey(0, 128, 255)
    Image.fromarray(np.int32([[0, 257, 65535]])).save(path)
    assert _pixels(path) == _grey(0, 1, 255)
    (tmp_path / "deep.ppm").write_bytes(b"P5 2 1 65535\n" + _words(257, 0xFFFF))
    assert _pixels(tmp_path / "deep.ppm") == _grey(1, 255)
    for beyond in (
        np.float32([[0, 1.5]]),
        np.float32([[0, np.nan]]),
        np.int32([[0, 65536]]),
        np.int32([[-1, 0]]),
    ):
        Image.fromarray(beyond).save(path)
        with pytest.raises(BbxError, match="nothing says which of them is white"):
            images.decode(path)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, [[0, 40, 80], [120, 160, 200]]),
        (3, [[200, 160, 120], [80, 40, 0]]),
        (6, [[120, 0], [160, 40], [200, 80]]),
        (8, [[80, 200], [40, 160], [0, 120]]),
    ],
)
def test_tiffs_are_turned_once(
    tmp_path: Path, compression: str, orientation: int, turned: list[list[int]]
) -> None:
    """Pillow turns a TIFF itself, and garbles one on its side that it maps into memory."""
    stored = Image.fromarray(np.uint8([[0, 40, 80], [120, 160, 200]]))
    stored.save(tmp_path / "turned.tif", tiffinfo={0x0112: orientation}, compression=compression)
    assert np.asarray(images.decode(tmp_path / "turned.tif"))[..., 0].tolist() == turned


def test_of_several_frames_the_first(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 1), colour) for colour in (RED, BLUE)]
    for name in ("frames.gif", "frames.tif", "frames.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert _pixels(tmp_path / name) == [[*RED], [*RED]]


def test_formats_that_are_programs_are_not_opened(tmp_path: Path) -> None:
    _quarters().save(tmp_path / "program.eps")
    with pytest.raises(BbxError, match="of no format that bbx reads"):
        images.decode(tmp_path / "program.eps")
    with pytest.raises(BbxError, match="holds no image files"):
        images.image_files(tmp_path)


def test_a_look_is_smaller_and_the_same(tmp_path: Path) -> None:
    path = images.PHOTOGRAPHS / "coffee.jpg"
    whole, look = images.decode(path), images.decode(path, at_least=64)
    assert 64 <= min(look.size) < min(whole.size) / 2
    small = np.asarray(whole.resize(look.size, Image.Resampling.BOX), np.float64)
    assert np.abs(small - np.asarray(look)).mean() < 3
    (tmp_path / "cut.jpg").write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(BbxError, match="cannot be decoded"):
        images.decode(tmp_path / "cut.jpg", at_least=64)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "webp", "avif", "bmp", "jp2"])
def test_damaged_files_are_decoded_or_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"damaged.{suffix}"
    images.decode(images.PHOTOGRAPHS / "coffee.jpg").resize((64, 48)).save(path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    named = 0
    for _ in range(60):
        damaged = bytearray(whole[: generator.integers(len(whole) // 2, len(whole) + 1)])
        for place in generator.integers(0, len(damaged), 4):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            assert images.decode(path).mode == "RGB"
        except BbxError:  # any other exception ends the test
            named += 1
    assert named > 0


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
