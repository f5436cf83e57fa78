"""From a picture and what is on it to a row of the network's input, by way of chance where that is wanted.

Chance comes first and works on the picture; then it is preprocessed as for evaluation, by `bbx.images.apply`,
so that nothing but chance sets training apart. All that is drawn comes from torch's generator on the CPU.

| level | classification | detection | segmentation |
| --- | --- | --- | --- |
| `none` | nothing | nothing | nothing |
| `light` | crops of 80 % and more, brightness | brightness, contrast | the same, crops of 80 % and more |
| `default` | crops of 35 % and more, mirroring, colour | mirroring, colour, zooming out | crops, mirroring |
| `strong` | TrivialAugment, erasing too | cutting out by overlap too | crops of 25 % and more, turning |

`light` mirrors nothing: it is safe for letters, digits and sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from bbx import images
from bbx.datasets import IGNORED, Boxes, Mask, Target
from bbx.training.options import Augment
from bbx.types import Preprocess, Task

Row = tuple[NDArray[np.float32], Any]
"""The network's input for one image, float32 [3, H, W], and the target in its pixels."""

Prepare = Callable[[Image.Image, Target], Row]

_SMALLEST_BOX = 1.0
"""Pixels of the input: what is smaller after cutting is not on the picture."""


def preparation(task: Task, level: Augment, how: Preprocess) -> Prepare:
    """What makes a row of a picture and its target."""
    make = {"classification": _for_classes, "detection": _for_boxes, "segmentation": _for_masks}[task]
    return make(level, how)


def _colours(level: Augment) -> v2.Transform:
    if level == "light":
        return v2.ColorJitter(brightness=0.2, contrast=0.2)
    return v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.02)


def _for_classes(level: Augment, how: Preprocess) -> Prepare:
    steps: list[Any] = []
    if level != "none":
        cut = v2.RandomResizedCrop(
            (how.height, how.width),
            scale=(0.8 if level == "light" else 0.35, 1.0),
            ratio=(0.9, 1.1) if level == "light" else (3 / 4, 4 / 3),
            interpolation=_interpolation(how),
        )
        steps = [cut, _colours(level)] if level == "light" else [cut, v2.RandomHorizontalFlip()]
        steps += {"default": [_colours(level)], "strong": [v2.TrivialAugmentWide()]}.get(level, [])
    chance = v2.Compose(steps) if steps else None
    erase = v2.RandomErasing(p=0.25) if level == "strong" else None

    def prepare(image: Image.Image, target: Target) -> Row:
        if chance is None:
            return images.apply(image, how).astype(np.float32), target
        # It has the right size already: what is left of preprocessing is the arithmetic.
        row = _normalised(chance(image), how)
        return (erase(torch.from_numpy(row)).numpy() if erase else row), target

    return prepare


def _interpolation(how: Preprocess) -> v2.InterpolationMode:
    bicubic = how.interpolation == "bicubic"
    return v2.InterpolationMode.BICUBIC if bicubic else v2.InterpolationMode.BILINEAR


def _normalised(image: Image.Image, how: Preprocess) -> NDArray[np.float32]:
    mean, std = np.asarray(how.mean, np.float32), np.asarray(how.std, np.float32)
    values = (np.asarray(image, np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _for_boxes(level: Augment, how: Preprocess) -> Prepare:
    fill = tuple(round(255 * value) for value in how.mean)
    steps: list[Any] = []
    if level != "none":
        steps.append(_colours(level))
    if level in ("default", "strong"):
        steps.append(v2.RandomZoomOut(fill=fill, side_range=(1.0, 2.0), p=0.3))
    if level == "strong":
        steps.append(v2.RandomIoUCrop())
    if level in ("default", "strong"):
        steps.append(v2.RandomHorizontalFlip())
    chance = v2.Compose([*steps, v2.SanitizeBoundingBoxes()]) if steps else None

    def prepare(image: Image.Image, target: Target) -> Row:
        assert isinstance(target, Boxes)  # the dataset is for detection
        # A box around many of a kind is no example of one.
        boxes, labels = target.boxes[~target.crowd], target.labels[~target.crowd]
        if chance is not None and len(labels):
            image, boxes, labels = _moved(chance, image, boxes, labels)
        scale_x, scale_y, left, top = images.placement(*image.size, how)
        inside = boxes * (scale_x, scale_y, scale_x, scale_y) + (left, top, left, top)
        inside = inside.clip(0, (how.width, how.height, how.width, how.height))
        kept = (inside[:, 2:] - inside[:, :2]).min(axis=1, initial=np.inf) >= _SMALLEST_BOX
        found = {
            "boxes": torch.from_numpy(inside[kept].astype(np.float32)),
            "labels": torch.from_numpy(labels[kept].astype(np.int64)),
        }
        return images.apply(image, how).astype(np.float32), found

    return prepare


def _moved(
    chance: v2.Compose, image: Image.Image, boxes: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[Image.Image, NDArray[np.float64], NDArray[np.int64]]:
    given = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes), format="XYXY", canvas_size=(image.height, image.width)
        ),
        "labels": torch.from_numpy(labels),
    }
    moved, found = chance(image, given)
    return moved, found["boxes"].numpy(), found["labels"].numpy()


def _for_masks(level: Augment, how: Preprocess) -> Prepare:
    chance = _chance_for_masks(level, how)

    def prepare(image: Image.Image, target: Target) -> Row:
        assert isinstance(target, np.ndarray)  # the dataset is for segmentation
        if chance is not None:
            moved, mask = chance(image, tv_tensors.Mask(torch.from_numpy(target.astype(np.uint8))))
            return _normalised(moved, how), mask.numpy().astype(np.int64)
        return images.apply(image, how).astype(np.float32), placed(target, how).astype(np.int64)

    return prepare


def _chance_for_masks(level: Augment, how: Preprocess) -> v2.Compose | None:
    if level == "none":
        return None
    fill = {Image.Image: tuple(round(255 * value) for value in how.mean), tv_tensors.Mask: IGNORED}
    least = {"light": 0.8, "default": 0.5, "strong": 0.25}[level]
    steps: list[Any] = [
        v2.RandomResizedCrop((how.height, how.width), scale=(least, 1.0), interpolation=_interpolation(how)),
        _colours(level),
    ]
    if level != "light":
        steps.append(v2.RandomHorizontalFlip())
    if level == "strong":
        steps.append(v2.RandomRotation(15, interpolation=_interpolation(how), fill=fill))
    return v2.Compose(steps)


def placed(mask: Mask, how: Preprocess) -> Mask:
    """A mask laid where `bbx.images.apply` lays its image, each pixel from the nearest; `IGNORED` elsewhere.

    Returns:
        uint8 [how.height, how.width].
    """
    height, width = mask.shape
    scale_x, scale_y, left, top = images.placement(width, height, how)
    y = np.floor((np.arange(how.height) + 0.5 - top) / scale_y).astype(np.int64)
    x = np.floor((np.arange(how.width) + 0.5 - left) / scale_x).astype(np.int64)
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    laid = mask[y.clip(0, height - 1)[:, None], x.clip(0, width - 1)]
    return np.where(inside, laid, np.uint8(IGNORED))
