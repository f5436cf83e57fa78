"""scikit-learn's handwritten digits as an image folder, one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def write_digits(folder: Path, digits: Sequence[int], *, most: int | None = None, side: int = 16) -> Path:
    """Write `folder/DIGIT/NUMBER.png`, grey, and give the folder.

    Args:
        digits: which, of 0 to 9.
        most: images of each; None for all, which are about 180.
        side: pixels along an edge; the digits themselves are of 8 × 8.
    """
    found = load_digits()
    for digit in digits:
        (folder / str(digit)).mkdir(parents=True)
        for number in np.flatnonzero(found.target == digit)[:most]:
            grey = Image.fromarray((found.images[number] * (255 / 16)).round().astype(np.uint8))
            grey.resize((side, side), Image.Resampling.BICUBIC).save(folder / str(digit) / f"{number}.png")
    return folder
