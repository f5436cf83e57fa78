"""How good a model is on scenes that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models.segmentation import LRASPP

from tests.scenes.coco import mean_ap
from tests.scenes.compose import CATEGORIES, Scene, coco_dataset, scenes
from tests.scenes.train import normalised


def detect(module: nn.Module, composed: Sequence[Scene]) -> list[dict[str, NDArray[Any]]]:
    """What a detector of torchvision finds on each scene: `boxes`, `scores` and `labels`."""
    found: list[dict[str, NDArray[Any]]] = []
    for scene in composed:
        with torch.inference_mode():
            [answer] = module([torch.from_numpy(scene.tensor_array)])
        found.append({name: value.numpy() for name, value in answer.items()})
    return found


def segment(module: nn.Module, composed: Sequence[Scene]) -> NDArray[np.int64]:
    """The label of every pixel by a segmenter of torchvision: [N, H, W]."""
    images = normalised(torch.from_numpy(np.stack([scene.image for scene in composed])))
    with torch.inference_mode():
        parts = [module(part)["out"].argmax(1) for part in images.split(8)]
    return torch.cat(parts).numpy()


def mean_iou(masks: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Mean over the classes that occur, background among them, of intersection over union over all pixels.

    Args:
        masks: labels, of any shape.
        predicted: the same of a segmenter.
    """
    classes = len(CATEGORIES) + 1
    cells = masks.ravel().astype(np.int64) * classes + predicted.ravel()
    confusion = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    common = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - common
    return float((common[union > 0] / union[union > 0]).mean())


def score(module: nn.Module, size: int, count: int = 64) -> dict[str, float]:
    """mAP of a detector, or mIoU of a segmenter, on test scenes of that size."""
    composed = scenes(count, 0, "test", size)
    if isinstance(module, LRASPP):
        masks = np.stack([scene.mask for scene in composed])
        return {"mIoU": mean_iou(masks, segment(module, composed))}
    return mean_ap(coco_dataset(composed), detect(module, composed))
