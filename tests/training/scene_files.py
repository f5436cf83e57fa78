"""Composed scenes of digits as files: a COCO file with its images, and images with their masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.scenes.compose import CATEGORIES, Split, coco_dataset, digit_masks, scenes

CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")


def write_coco(
    folder: Path, count: int, split: Split, *, side: int = 192, seed: int = 0, parts: bool = False
) -> Path:
    """Write `folder/SPLIT.json` and its images; gives the file.

    Args:
        parts: each digit's ink as its outline, and the corners of its box as keypoints.
    """
    composed = scenes(count, seed, split, side)
    document = coco_dataset(composed)
    if parts:
        masks = (mask for scene in composed for mask in digit_masks(scene))
        for annotation, mask in zip(document["annotations"], masks, strict=True):
            annotation |= {"segmentation": _runs(mask), "keypoints": _corners(*annotation["bbox"])}
        for category in document["categories"]:
            category["keypoints"] = CORNERS
    (folder / split).mkdir(parents=True)
    for entry, scene in zip(document["images"], composed, strict=True):
        entry["file_name"] = f"{split}/{entry['id']}.png"
        Image.fromarray(scene.image).save(folder / entry["file_name"])
    path = folder / f"{split}.json"
    path.write_text(json.dumps(document))
    return path


def _runs(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's uncompressed run-length encoding: how many pixels are outside, inside, outside …, by columns."""
    pixels = np.concatenate([[False], mask.ravel(order="F"), [False]])
    borders = np.flatnonzero(pixels[1:] != pixels[:-1])
    runs = np.diff(np.concatenate([[0], borders, [mask.size]]))
    return {"size": list(mask.shape), "counts": [int(run) for run in runs]}


def _corners(x: float, y: float, width: float, height: float) -> list[float]:
    """The corners of a box as visible keypoints, in the order of `CORNERS`."""
    return [value for dy in (0, height) for dx in (0, width) for value in (x + dx, y + dy, 2)]


def write_masks(folder: Path, count: int, split: Split, *, side: int = 96, seed: int = 0) -> Path:
    """Write `folder/images`, `folder/masks` and `folder/classes.txt`; gives the folder."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number, scene in enumerate(scenes(count, seed, split, side)):
        Image.fromarray(scene.image).save(folder / "images" / f"{number}.png")
        Image.fromarray(scene.mask).save(folder / "masks" / f"{number}.png")
    (folder / "classes.txt").write_text("\n".join(("background", *CATEGORIES)))
    return folder
