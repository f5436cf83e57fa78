"""Pictures with a mask each: `images/NAME.jpg` and `masks/NAME.png`, whose values are classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from bbx import images
from bbx.datasets.base import BACKGROUND, IGNORED, Dataset, Mask
from bbx.datasets.files import few, names_in
from bbx.datasets.numbering import numbered
from bbx.errors import BbxError

CLASSES_FILE = "classes.txt"
"""Names of the classes, one a line, the first for the value 0; beside `images` or above a split."""

_INDEX_MODES = ("1", "L", "P", "I", "I;16")
"""Pillow's modes whose values are numbers and no colours."""


class MaskedImages(Dataset):
    """The pictures in `images`, with the masks of the same names in `masks`.

    Without `classes.txt` there are as many classes as the largest value in any mask says, which reads all of
    them once.

    Args:
        folder: with `images` and `masks`.
        classes: names in the network's numbering, the background first.

    Raises:
        BbxError: a folder is missing, a picture has no mask, or names do not fit.
    """

    task = "segmentation"

    def __init__(self, folder: Path, classes: Sequence[str] | None = None) -> None:
        self._folder = folder
        self._files = _pairs(folder)
        named = next(
            (at / CLASSES_FILE for at in (folder, folder.parent) if (at / CLASSES_FILE).is_file()), None
        )
        if named is not None:
            names = names_in(named)
            self.classes = tuple(classes or names)
            self._numbers = np.array(numbered(names, classes, named), dtype=np.int64)
        else:
            self.named = classes is not None
            self.classes = tuple(classes or self._counted())
            self._numbers = np.arange(len(self.classes))
        if len(self.classes) > IGNORED:
            raise BbxError(
                f"{folder} has {len(self.classes)} classes, and masks may have {IGNORED} at most: "
                f"{IGNORED} stands for pixels that nobody judges."
            )

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        return self._files[index][0].relative_to(self._folder).as_posix()

    def image(self, index: int) -> Image.Image:
        path, mask = self._files[index]
        image = images.decode(path)
        size = _opened(mask).size
        if image.size != size:
            raise BbxError(
                f"{path} is {image.width} × {image.height} upright, and its mask {mask.name} "
                f"{size[0]} × {size[1]}."
            )
        return image

    def target(self, index: int) -> Mask:
        path = self._files[index][1]
        values = _values(path)
        judged = values != IGNORED
        highest = int(values[judged].max(initial=0))
        if highest >= len(self._numbers):
            raise BbxError(
                f"{path} has the label {highest}, and the {len(self._numbers)} classes end at "
                f"{len(self._numbers) - 1}.",
                hint=f"{IGNORED} stands for pixels that nobody judges.",
            )
        mask = np.full(values.shape, IGNORED, np.uint8)
        mask[judged] = self._numbers[values[judged]]
        return mask

    def _counted(self) -> list[str]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            highest = max(pool.map(_highest, (mask for _, mask in self._files)))
        return [BACKGROUND, *(f"class {number}" for number in range(1, highest + 1))]


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    pictures, masks = folder / "images", folder / "masks"
    for each in (pictures, masks):
        if not each.is_dir():
            raise BbxError(
                f"{folder} has no folder `{each.name}`.",
                hint="A segmentation's data is images/NAME.jpg and masks/NAME.png.",
            )
    found = {path.relative_to(masks).with_suffix(""): path for path in images.image_files(masks)}
    pairs = [
        (path, found.get(path.relative_to(pictures).with_suffix(""))) for path in images.image_files(pictures)
    ]
    lacking = [path.name for path, mask in pairs if mask is None]
    if lacking:
        raise BbxError(f"{folder}: images without a mask of the same name: {few(lacking)}.")
    return [(path, mask) for path, mask in pairs if mask is not None]


def _values(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The numbers in a mask's file, [H, W]."""
    image = _opened(path)
    if image.mode not in _INDEX_MODES:
        raise BbxError(
            f"The mask {path} has colours ({image.mode}) and no class numbers.",
            hint="Save it as a grey or palette PNG whose values are the classes.",
        )
    return np.asarray(image, dtype=np.int64)


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except images.REFUSALS as error:
        raise BbxError(f"The mask {path} cannot be read: {error}.") from error


def _highest(path: Path) -> int:
    values = _values(path)
    return int(values[values != IGNORED].max(initial=0))
