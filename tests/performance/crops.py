"""Crops of real photographs: scikit-image's and scikit-learn's, cut at seeded places and sizes."""

from __future__ import annotations

import numpy as np
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_images

_PICTURES = ("astronaut", "chelsea", "coffee", "rocket")
_LEAST_SHARE = 0.35


def pictures() -> list[Image.Image]:
    """The photographs, RGB."""
    arrays = [getattr(skimage.data, name)() for name in _PICTURES]
    arrays.append(skimage.data.stereo_motorcycle()[0])
    return [Image.fromarray(array) for array in (*arrays, *load_sample_images().images)]


def crops(count: int, seed: int) -> list[Image.Image]:
    """Square crops, each at least a third of its photograph's shorter side, half of them mirrored.

    The photographs come by turns, so that each has the same share of any number of crops.
    """
    generator = np.random.default_rng(seed)
    sources = pictures()
    found = []
    for index in range(count):
        source = sources[index % len(sources)]
        side = int(min(source.size) * generator.uniform(_LEAST_SHARE, 1.0))
        left = int(generator.integers(0, source.width - side + 1))
        top = int(generator.integers(0, source.height - side + 1))
        crop = source.crop((left, top, left + side, top + side))
        found.append(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else crop)
    return found
