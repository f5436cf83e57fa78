"""Photographs in, network inputs out: decoding and preprocessing with Pillow and NumPy only.

The same code feeds parity, range scans, calibration and prediction, so that a difference between two
stages is never a difference between two ways to read a picture.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from bbx.errors import BbxError
from bbx.types import Preprocess, TensorSpec

PHOTOGRAPHS = Path(__file__).parent / "photographs"
"""Folder of the photographs that bbx brings (public domain and CC0; see its README)."""

DEFAULT_SIDE = 224
"""Pixels along a dynamic height or width of a graph that says nothing about its images."""

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

_FORMATS = {
    "AVIF": "Avif",
    "BMP": "Bmp",
    "DIB": "Bmp",
    "GIF": "Gif",
    "JPEG": "Jpeg",
    "JPEG2000": "Jpeg2K",
    "PCX": "Pcx",
    "PNG": "Png",
    "PPM": "Ppm",
    "QOI": "Qoi",
    "TGA": "Tga",
    "TIFF": "Tiff",
    "WEBP": "WebP",
}
"""What is read, by Pillow's names, and in whose module. Pillow knows more: some only by name, and EPS is a
program to be run."""

PLUGINS = tuple(sorted({f"PIL.{name}ImagePlugin" for name in _FORMATS.values()}))
"""Modules that read them; to look at them all takes Pillow a twentieth of a second in every process."""


REFUSALS = (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError)
"""What Pillow's decoders raise on broken files, found by feeding them such."""


def decode(path: Path, *, at_least: int | None = None) -> Image.Image:
    """Decode an image file to 8-bit RGB, upright.

    EXIF orientation is applied, 16 bits become 8, transparency is laid on white, ink (CMYK) becomes light,
    and of several frames the first is taken. Colour profiles are not applied.

    Args:
        path: the file; every byte of its pixels is read, so that a truncated one is an error.
        at_least: decode a JPEG no larger than needed for sides of this many pixels, which is several
            times as fast; a look at the image, not the image. None for all pixels.

    Raises:
        BbxError: the file is missing, broken, or no image.
    """
    try:
        # As a stream: a file given by name is mapped into memory, and Pillow then garbles a TIFF on its side.
        with path.open("rb") as stream, Image.open(stream, formats=_formats()) as opened:
            if at_least is not None:
                opened.draft(None, (at_least, at_least))
            if opened.mode == "L" and "transparency" in opened.info:
                opened.info["transparency"] *= _grey_step(opened)
            opened.load()
            return upright_rgb(opened)
    except FileNotFoundError as error:
        raise BbxError(f"There is no image {path}.") from error
    except UnidentifiedImageError as error:
        raise BbxError(f"{path} cannot be decoded as an image: it is of no format that bbx reads.") from error
    except REFUSALS as error:
        raise BbxError(f"{path} cannot be decoded as an image: {error}.") from error


@cache
def _formats() -> tuple[str, ...]:
    """Of `_FORMATS`, those that this Pillow was built with."""
    for plugin in PLUGINS:
        with contextlib.suppress(ImportError):
            importlib.import_module(plugin)
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _grey_step(opened: ImageFile.ImageFile) -> int:
    """By how much Pillow multiplies greys of 2 and 4 bits to make them 8, but not the one that is clear."""
    stored = opened.tile[0].args if opened.tile else None
    return {"L;2": 85, "L;4": 17}.get(stored, 1) if isinstance(stored, str) else 1


def upright_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode as 8-bit RGB, turned as its EXIF orientation says.

    Raises:
        ValueError: its values are of a kind of which nobody says which is white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _shallow(image)
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image.convert("RGBA"))
        return paper.convert("RGB")
    return image.convert("RGB")


def _shallow(image: Image.Image) -> Image.Image:
    """Greys of 16 bits, or floats from 0 to 1, as RGB."""
    values = np.asarray(image, dtype=np.float64)
    white = 1.0 if image.mode == "F" else 65535.0
    # Judged by its mode and never by its brightest pixel: a dark picture stays dark.
    if values.size and not (values.min() >= 0 and values.max() <= white):
        raise ValueError(f"it has values beyond 0 to {white:g}, and nothing says which of them is white")
    grey = (values * (255.0 / white)).round().astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


def apply(image: Image.Image, how: Preprocess) -> NDArray[np.generic]:
    """One decoded RGB image as one row of the network's input.

    Returns:
        `how.dtype`, shape `how.input_shape` without the batch.
    """
    fitted = np.asarray(_FITS[how.fit](image, how))
    if how.layout == "NCHW":
        fitted = fitted.transpose(2, 0, 1)
    if how.dtype != "float32":
        return np.ascontiguousarray(fitted)
    of_channels = (3, 1, 1) if how.layout == "NCHW" else (3,)
    mean, std = (np.asarray(values, np.float32).reshape(of_channels) for values in (how.mean, how.std))
    # Into rows of one channel and in place: with the three channels innermost it takes several times as long.
    row = np.empty(fitted.shape, np.float32)
    np.divide(fitted, np.float32(255), out=row)
    row -= mean
    row /= std
    return row


def placement(width: int, height: int, how: Preprocess) -> tuple[float, float, float, float]:
    """Where an image of this size stands in the network's input.

    Returns:
        `(scale_x, scale_y, left, top)`: the pixel (x, y) of the image is at (scale_x * x + left,
        scale_y * y + top) of the input; with `crop`, left and top are not positive.
    """
    if how.fit == "stretch":
        return how.width / width, how.height / height, 0.0, 0.0
    if how.fit == "letterbox":
        inner_width, inner_height = _letterboxed(width, height, how)
        return inner_width / width, inner_height / height, 0.0, 0.0
    outer_width, outer_height = _cropped_from(width, height, how)
    left, top = (outer_width - how.width) // 2, (outer_height - how.height) // 2
    return outer_width / width, outer_height / height, -float(left), -float(top)


def _crop(image: Image.Image, how: Preprocess) -> Image.Image:
    size = _cropped_from(image.width, image.height, how)
    resized = image.resize(size, _RESAMPLING[how.interpolation])
    left, top = (size[0] - how.width) // 2, (size[1] - how.height) // 2
    return resized.crop((left, top, left + how.width, top + how.height))


def _cropped_from(width: int, height: int, how: Preprocess) -> tuple[int, int]:
    short = round(min(how.height, how.width) / how.crop_pct)
    scale = max(short / min(width, height), how.width / width, how.height / height)
    # Whole pixels are cut, as torchvision and timm do; the small term undoes what the division lost.
    return max(how.width, int(width * scale + 1e-6)), max(how.height, int(height * scale + 1e-6))


def _stretch(image: Image.Image, how: Preprocess) -> Image.Image:
    return image.resize((how.width, how.height), _RESAMPLING[how.interpolation])


def _letterbox(image: Image.Image, how: Preprocess) -> Image.Image:
    resized = image.resize(_letterboxed(image.width, image.height, how), _RESAMPLING[how.interpolation])
    red, green, blue = (round(255 * value) for value in how.mean)
    paper = Image.new("RGB", (how.width, how.height), (red, green, blue))
    paper.paste(resized, (0, 0))
    return paper


def _letterboxed(width: int, height: int, how: Preprocess) -> tuple[int, int]:
    scale = min(how.width / width, how.height / height)
    return max(1, int(width * scale + 1e-6)), max(1, int(height * scale + 1e-6))


_FITS = {"crop": _crop, "stretch": _stretch, "letterbox": _letterbox}


@cache
def _photograph(path: Path) -> Image.Image:
    return decode(path)


def photographs() -> list[Path]:
    """The photographs that bbx brings, in a fixed order."""
    return sorted(PHOTOGRAPHS.glob("*.jpg"))


def photograph_batch(how: Preprocess, batch: int, *, start: int = 0) -> NDArray[np.generic]:
    """A batch of the bundled photographs, cycling through them from the one at index `start`.

    Where the photographs repeat, the repeats are mirrored, so that a graph that mixes up rows shows.
    """
    return np.stack([apply(image, how) for image in photograph_images(batch, start=start)])


def photograph_images(count: int, *, start: int = 0) -> list[Image.Image]:
    """The decoded photographs that `photograph_batch` makes a batch of."""
    paths = photographs()
    images = []
    for index in range(start, start + count):
        image = _photograph(paths[index % len(paths)])
        images.append(ImageOps.mirror(image) if (index // len(paths)) % 2 else image)
    return images


def noise_batch(how: Preprocess, batch: int, *, seed: int | Sequence[int] = 0) -> NDArray[np.generic]:
    """Seeded noise in the shape and the value range of preprocessed images."""
    shape = (batch, *(size for size in how.input_shape[1:] if size is not None))
    generator = np.random.default_rng(seed)
    if how.dtype == "uint8":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.standard_normal(shape, dtype=np.float32)


def noise_feeds(
    inputs: tuple[TensorSpec, ...], batch: int, *, seed: int | Sequence[int]
) -> dict[str, NDArray[np.generic]]:
    """Seeded noise for every input: normal for floats, 0..255 for bytes, 0 or 1 for other integers.

    A leading dynamic dimension becomes `batch`; a further one `DEFAULT_SIDE` in an image and 1 elsewhere.
    """
    generator = np.random.default_rng(seed)
    feeds: dict[str, NDArray[np.generic]] = {}
    for spec in inputs:
        fill = DEFAULT_SIDE if len(spec.shape) == 4 else 1
        shape = tuple(
            (batch if axis == 0 else fill) if size is None else size for axis, size in enumerate(spec.shape)
        )
        if "float" in spec.dtype:
            feeds[spec.name] = generator.standard_normal(shape, dtype=np.float32).astype(spec.dtype)
        else:
            top = 256 if spec.dtype == "uint8" else 2
            feeds[spec.name] = generator.integers(0, top, shape).astype(spec.dtype)
    return feeds


def image_files(folder: Path) -> list[Path]:
    """Image files below `folder`, sorted by path, without hidden ones and those in hidden folders.

    macOS leaves `._NAME.jpg` behind, and Jupyter copies in `.ipynb_checkpoints`.

    Raises:
        BbxError: the folder is missing or holds no image file.
    """
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in _formats()}
    if not folder.is_dir():
        raise BbxError(f"There is no folder {folder}.", hint="Name a folder of images.")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in known
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise BbxError(
            f"{folder} holds no image files.", hint="Name a folder of .jpg, .png or similar files."
        )
    return files


def file_batch(files: Iterable[Path], how: Preprocess) -> NDArray[np.generic]:
    """A batch of image files, decoded and preprocessed.

    Raises:
        BbxError: one of them cannot be decoded.
    """
    return np.stack([apply(decode(path), how) for path in files])
