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

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from bbx import images
from bbx.datasets import IGNORED, Boxes, Mask, Target, pixels
from bbx.training.options import Augment
from bbx.types import Preprocess, Task

Row = tuple[NDArray[np.float32], Any]
"""The network's input for one image, float32 [3, H, W], and the target in its pixels."""

Prepare = Callable[[Image.Image, Target], Row]

_SMALLEST_BOX = 1.0
"""Pixels of the input: what is smaller after cutting is not on the picture."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What a detector learns from beside boxes.

    Attributes:
        outlines: whether it does.
        keypoints: names of an object's; empty where it does not. On a mirrored picture left and right change
            places, as the names have them: `left_eye` with `right_eye`.
    """

    outlines: bool = False
    keypoints: tuple[str, ...] = ()


def preparation(task: Task, level: Augment, how: Preprocess, extras: Extras | None = None) -> Prepare:
    """What makes a row of a picture and its target.

    Of a detector the target is a dict of tensors in pixels of the input: `boxes` float32 [N, 4] as x1, y1,
    x2, y2; `labels` int64 [N]; with outlines `masks` uint8 [N, H, W]; with keypoints `keypoints` float32
    [N, K, 3] as x, y and 1 where they are labelled and on the picture.
    """
    if task == "detection":
        return _for_boxes(level, how, extras or Extras())
    return {"classification": _for_classes, "segmentation": _for_masks}[task](level, how)


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


def _for_boxes(level: Augment, how: Preprocess, extras: Extras) -> Prepare:
    chance = _chance_for_boxes(level, how)
    partners = _partners(extras.keypoints)

    def prepare(image: Image.Image, target: Target) -> Row:
        assert isinstance(target, Boxes)  # the dataset is for detection
        objects = _Objects.of(target, extras, image.size)
        if chance is not None and len(objects.labels):
            image, objects = _moved(chance, image, objects, partners)
        return images.apply(image, how).astype(np.float32), _in_input(objects, image.size, how)

    return prepare


def _chance_for_boxes(level: Augment, how: Preprocess) -> v2.Compose | None:
    if level == "none":
        return None
    fill = tuple(round(255 * value) for value in how.mean)
    steps: list[Any] = [_colours(level)]
    if level in ("default", "strong"):
        around = {Image.Image: fill, "others": 0}
        steps.append(v2.RandomZoomOut(fill=around, side_range=(1.0, 2.0), p=0.3))
    if level == "strong":
        steps.append(v2.RandomIoUCrop())
    if level in ("default", "strong"):
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose([*steps, v2.SanitizeBoundingBoxes()])


@dataclass(frozen=True, slots=True)
class _Objects:
    """What is on a picture, in its pixels, crowds left out: a box around many of a kind is no example of one.

    Attributes:
        boxes, labels, keypoints: see `bbx.datasets.Boxes`.
        masks: bool [N, H, W].
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None
    keypoints: NDArray[np.float64] | None

    @classmethod
    def of(cls, target: Boxes, extras: Extras, size: tuple[int, int]) -> _Objects:
        single = ~target.crowd
        masks = keypoints = None
        if extras.outlines:
            assert target.outlines is not None  # `bbx.training.data.require_targets` has seen to it
            masks = pixels([each for each, one in zip(target.outlines, single, strict=True) if one], size)
        if extras.keypoints:
            assert target.keypoints is not None
            keypoints = target.keypoints[single]
        return cls(target.boxes[single], target.labels[single], masks, keypoints)


_OTHER_SIDE = {"left": "right", "Left": "Right", "l": "r", "L": "R"}
_OTHER_SIDE |= {right: left for left, right in _OTHER_SIDE.items()}
_SIDE = re.compile(r"[Ll]eft|[Rr]ight|(?<![A-Za-z])[lrLR](?![A-Za-z])")


def _partners(names: tuple[str, ...]) -> NDArray[np.int64]:
    """int64 [K]: the keypoint that each becomes on a mirrored picture."""
    places = {name: place for place, name in enumerate(names)}
    return np.array([places.get(_mirrored(name), place) for name, place in places.items()], dtype=np.int64)


def _mirrored(name: str) -> str:
    """A keypoint's name with left and right exchanged, in full or as a letter that stands alone."""
    return _SIDE.sub(lambda found: _OTHER_SIDE[found.group()], name)


def _moved(
    chance: v2.Compose, image: Image.Image, objects: _Objects, partners: NDArray[np.int64]
) -> tuple[Image.Image, _Objects]:
    canvas = (image.height, image.width)
    given: dict[str, Any] = {
        "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(objects.boxes), format="XYXY", canvas_size=canvas),
        # Transforms that drop objects drop their labels, and so tell which are left.
        "labels": torch.arange(len(objects.labels)),
    }
    if objects.masks is not None:
        given["masks"] = tv_tensors.Mask(torch.from_numpy(objects.masks))
    if objects.keypoints is not None:
        points = torch.from_numpy(objects.keypoints[..., :2])
        given["keypoints"] = tv_tensors.KeyPoints(points, canvas_size=canvas)
        given["axis"] = tv_tensors.KeyPoints([[0.0, 0.0], [1.0, 0.0]], canvas_size=canvas)
    moved, found = chance(image, given)
    left = found["labels"].numpy()
    keypoints = None
    if objects.keypoints is not None:
        keypoints = np.concatenate([found["keypoints"].numpy(), objects.keypoints[..., 2:]], axis=-1)[left]
        if found["axis"][1, 0] < found["axis"][0, 0]:
            keypoints = keypoints[:, partners]
    return moved, _Objects(
        boxes=found["boxes"].numpy(),
        labels=objects.labels[left],
        masks=None if objects.masks is None else found["masks"].numpy(),
        keypoints=keypoints,
    )


def _in_input(objects: _Objects, size: tuple[int, int], how: Preprocess) -> dict[str, torch.Tensor]:
    """Objects of an image of this width and height in pixels of the network's input."""
    scale_x, scale_y, left, top = images.placement(*size, how)
    inside = objects.boxes * (scale_x, scale_y, scale_x, scale_y) + (left, top, left, top)
    inside = inside.clip(0, (how.width, how.height, how.width, how.height))
    kept = (inside[:, 2:] - inside[:, :2]).min(axis=1, initial=np.inf) >= _SMALLEST_BOX
    found = {
        "boxes": torch.from_numpy(inside[kept].astype(np.float32)),
        "labels": torch.from_numpy(objects.labels[kept].astype(np.int64)),
    }
    if objects.masks is not None:
        found["masks"] = torch.from_numpy(_laid(objects.masks[kept], how, outside=False).astype(np.uint8))
    if objects.keypoints is not None:
        points = objects.keypoints[kept] * (scale_x, scale_y, 1) + (left, top, 0)
        seen = (points[..., 2] > 0) & (points[..., :2] >= 0).all(-1)
        seen &= (points[..., 0] < how.width) & (points[..., 1] < how.height)
        points[..., 2] = seen
        found["keypoints"] = torch.from_numpy(points.astype(np.float32))
    return found


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
    return _laid(mask, how, outside=np.uint8(IGNORED))


def _laid(planes: NDArray[Any], how: Preprocess, *, outside: Any) -> NDArray[Any]:
    """Planes [..., H, W] of a picture laid where its pixels lie in the input, each pixel from the nearest."""
    height, width = planes.shape[-2:]
    scale_x, scale_y, left, top = images.placement(width, height, how)
    y = np.floor((np.arange(how.height) + 0.5 - top) / scale_y).astype(np.int64)
    x = np.floor((np.arange(how.width) + 0.5 - left) / scale_x).astype(np.int64)
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    laid = planes[..., y.clip(0, height - 1)[:, None], x.clip(0, width - 1)]
    return np.where(inside, laid, outside)
