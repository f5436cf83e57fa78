"""Composing scenes: scikit-learn's digits, enlarged and tinted, on crops of photographs.

The two splits share no digit and no photograph, so that a result on `test` is one on things unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from sklearn.datasets import load_digits, load_sample_image
from sklearn.model_selection import train_test_split

Split = Literal["train", "test"]
Pixels = NDArray[np.uint8]

CATEGORIES = tuple(str(digit) for digit in range(10))
"""Names of the classes 1 to 10: label `k` is the digit `k - 1`, and 0 is the background."""

MOST_DIGITS = 6
SMALLEST, LARGEST = 0.18, 0.38
"""Side of an enlarged digit (its 8 × 8 cells, not its ink), as a share of the scene's side."""
INK = 0.35
"""Opacity from which a pixel belongs to the digit: what the box is tight around, and the mask."""
LEAST_CONTRAST = 110.0
"""Difference in brightness between ink and the background under it, of 255."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture and what is on it.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        boxes: float32 [N, 4], x1, y1, x2, y2 in pixels, tight around each digit's ink.
        labels: int64 [N], 1 to 10.
        mask: uint8 [H, W], 0 for background, else the label.
    """

    image: Pixels
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    mask: Pixels

    @property
    def tensor_array(self) -> NDArray[np.float32]:
        """The picture as float32 [3, H, W] in 0..1, as torchvision's models take it."""
        return np.ascontiguousarray(self.image.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def scenes(count: int, seed: int, split: Split, size: int = 192) -> list[Scene]:
    """Compose scenes; the same arguments give the same scenes.

    Args:
        count: how many.
        seed: of everything that is drawn.
        split: where digits and photographs come from.
        size: height and width in pixels; digits grow with it.
    """
    generator = np.random.default_rng([seed, size, split == "test"])
    return [_scene(generator, split, size) for _ in range(count)]


def digit_masks(scene: Scene) -> NDArray[np.bool_]:
    """The ink of each digit, bool [N, H, W]."""
    masks = np.zeros((len(scene.boxes), *scene.mask.shape), np.bool_)
    for mask, (x1, y1, x2, y2), label in zip(masks, scene.boxes.astype(int), scene.labels, strict=True):
        mask[y1:y2, x1:x2] = scene.mask[y1:y2, x1:x2] == label
    return masks


def coco_dataset(composed: Sequence[Scene]) -> dict[str, Any]:
    """The scenes' labels in COCO's format; the image at index `i` has the id `i + 1`."""
    annotations = [
        {
            "image_id": number,
            "category_id": int(label),
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "area": float((x2 - x1) * (y2 - y1)),
            "iscrowd": 0,
        }
        for number, scene in enumerate(composed, start=1)
        for (x1, y1, x2, y2), label in zip(scene.boxes, scene.labels, strict=True)
    ]
    return {
        "info": {},
        "images": [
            {"id": number, "height": scene.image.shape[0], "width": scene.image.shape[1]}
            for number, scene in enumerate(composed, start=1)
        ],
        "annotations": [{"id": number, **row} for number, row in enumerate(annotations, start=1)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(CATEGORIES, start=1)],
    }


@cache
def _digits(split: Split) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Opacities float32 [N, 8, 8] in 0..1 and digits int64 [N]."""
    found = load_digits()
    parts = train_test_split(
        (found.images / 16).astype(np.float32),
        found.target.astype(np.int64),
        test_size=0.25,
        random_state=0,
        stratify=found.target,
    )
    seen, unseen, seen_digits, unseen_digits = parts
    return (seen, seen_digits) if split == "train" else (unseen, unseen_digits)


@cache
def _photographs(split: Split) -> tuple[Image.Image, ...]:
    """Pictures without text, of things and of textures."""
    if split == "train":
        pictures = [data.astronaut(), data.coffee(), data.stereo_motorcycle()[0], data.brick(), data.gravel()]
        pictures += [data.rocket(), load_sample_image("flower.jpg")]
    else:
        pictures = [data.chelsea(), data.hubble_deep_field(), data.grass(), load_sample_image("china.jpg")]
    return tuple(Image.fromarray(picture).convert("RGB") for picture in pictures)


def _scene(generator: np.random.Generator, split: Split, size: int) -> Scene:
    image = _background(generator, split, size)
    mask = np.zeros((size, size), np.uint8)
    boxes: list[list[int]] = []
    labels: list[int] = []
    digits, names = _digits(split)
    wanted = int(generator.integers(1, MOST_DIGITS + 1))
    for _ in range(wanted * 8):  # most draws fit; a full scene ends with fewer
        if len(boxes) == wanted:
            break
        which = int(generator.integers(len(digits)))
        opacity = _enlarged(digits[which], generator, size)
        top, left = (int(generator.integers(size - side + 1)) for side in opacity.shape)
        part = np.s_[top : top + opacity.shape[0], left : left + opacity.shape[1]]
        inked = opacity >= INK
        if mask[part].any():
            continue
        image[part] = _inked(image[part], opacity, generator)
        label = int(names[which]) + 1
        mask[part][inked] = label
        rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
        boxes.append([left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1])
        labels.append(label)
    return Scene(
        image.round().clip(0, 255).astype(np.uint8),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        mask,
    )


def _background(generator: np.random.Generator, split: Split, size: int) -> NDArray[np.float32]:
    """float32 [size, size, 3] in 0..255: a square crop, perhaps mirrored, darker or brighter."""
    pictures = _photographs(split)
    picture = pictures[int(generator.integers(len(pictures)))]
    side = int(min(picture.size) * generator.uniform(0.4, 1.0))
    left, top = (int(generator.integers(length - side + 1)) for length in picture.size)
    crop = picture.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    pixels = np.asarray(crop, np.float32)
    if generator.random() < 0.5:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels * np.float32(generator.uniform(0.6, 1.2))).clip(0, 255)


def _enlarged(digit: NDArray[np.float32], generator: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Opacity in 0..1 of a digit at a drawn size, at most a fifth wider or narrower than it was."""
    height = round(size * generator.uniform(SMALLEST, LARGEST))
    width = round(height * generator.uniform(0.8, 1.2))
    grown = Image.fromarray(digit).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(grown).clip(0, 1)


def _inked(
    under: NDArray[np.float32], opacity: NDArray[np.float32], generator: np.random.Generator
) -> NDArray[np.float32]:
    """A digit of one colour over a part of the background, dark on bright or bright on dark."""
    brightness = float(under.mean())
    room = [side for side in (-brightness, 255 - brightness) if abs(side) > LEAST_CONTRAST]
    furthest = room[int(generator.integers(len(room)))]
    target = brightness + furthest * generator.uniform(LEAST_CONTRAST / abs(furthest), 1.0)
    colour = (target + generator.uniform(-30, 30, 3)).clip(0, 255).astype(np.float32)
    share = opacity[..., None] * np.float32(generator.uniform(0.85, 1.0))
    return under * (1 - share) + colour * share
