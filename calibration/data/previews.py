"""A look at one image, without keeping it: content hash, what it looks like, whether anything is on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bbx import artifact, images

_SIDE = 64
"""Pixels of a side that a look needs at least; a JPEG is decoded no larger than that."""

_FLAT = 2
"""Of 255: what lossy compression adds to an image of one colour."""

_TEXTURE = 16
"""Of 128 steps between neighbours: how many have to go against the rest. Pieces of an evening sky have up to
7; of 32 whole photographs and drawings all but one have 19 or more."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What is known of an image without its pixels.

    Attributes:
        sha256: of the file, or of the arrays' names, dtypes, shapes and bytes.
        look: 128 bits that change little when the image is scaled, compressed or brightened; None where the
            data is no image, or shows nothing but a gradient.
        constant: whether it is of one colour, or an array of one value.
    """

    sha256: str
    look: bytes | None
    constant: bool


def preview_of_file(path: Path) -> Preview:
    """Look at an image file.

    Raises:
        BbxError: it is missing or cannot be decoded.
    """
    image = images.decode(path, at_least=_SIDE)
    return _preview(artifact.sha256_of(path), image)


def preview_of_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> Preview:
    """Look at one row of arrays; the first that has the shape of an image gives the look."""
    digest = digest_of(arrays)
    constant = all(_is_constant(array) for array in arrays.values())
    planes = (_as_grey(array) for array in arrays.values())
    grey = next((plane for plane in planes if plane is not None), None)
    return Preview(digest, None if grey is None else _look(grey), constant)


def digest_of(arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """SHA-256 of arrays: of names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _preview(sha256: str, image: Image.Image) -> Preview:
    extremes = [channel.getextrema() for channel in image.split()]
    constant = all(float(high) - float(low) <= _FLAT for low, high in extremes)  # type: ignore[arg-type]
    return Preview(sha256, _look(image.convert("L")), constant)


def _look(grey: Image.Image) -> bytes | None:
    """Where brightness rises to the right and downwards, on a grid of 9 × 9 (a difference hash).

    Returns:
        None where it rises nearly everywhere or nearly nowhere: such looks are those of any sky.
    """
    grid = np.asarray(grey.resize((9, 9), Image.Resampling.BOX), np.int16)
    rises = np.stack([(grid[:8, 1:] > grid[:8, :-1]).ravel(), (grid[1:, :8] > grid[:-1, :8]).ravel()])
    against = np.minimum(rises.sum(axis=1), 64 - rises.sum(axis=1)).sum()
    return np.packbits(rises).tobytes() if against >= _TEXTURE else None


def _is_constant(array: NDArray[Any]) -> bool:
    """Whether every channel of an array has one value, or nearly one where it holds bytes."""
    axis = _channel_axis(array)
    channels = array[np.newaxis] if axis is None else np.moveaxis(array, axis, 0)
    flat = channels.reshape(len(channels), -1).astype(np.float64)
    return bool((np.ptp(flat, axis=1) <= (_FLAT if array.dtype == np.uint8 else 0)).all())


def _channel_axis(array: NDArray[Any]) -> int | None:
    return next((axis for axis in (2, 0) if array.ndim == 3 and array.shape[axis] in (1, 3, 4)), None)


def _as_grey(array: NDArray[Any]) -> Image.Image | None:
    """An array with the shape of an image as grey, its values spread over 0 to 255; None for any other."""
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
        return Image.fromarray(array).convert("L")  # exactly as the same picture in a file
    axis = _channel_axis(array)
    if array.ndim != 2 and axis is None:
        return None
    plane = array.astype(np.float64) if axis is None else array.mean(axis=axis, dtype=np.float64)
    spread = plane.max() - plane.min()
    scaled = (plane - plane.min()) * (255.0 / spread if spread else 0.0)
    return Image.fromarray(scaled.round().astype(np.uint8))
