"""Composed scenes of digits as files: a COCO file with its images, and images with their masks."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from tests.scenes.compose import CATEGORIES, Split, coco_dataset, scenes


def write_coco(folder: Path, count: int, split: Split, *, side: int = 192, seed: int = 0) -> Path:
    """Write `folder/SPLIT.json` and its images; gives the file."""
    composed = scenes(count, seed, split, side)
    document = coco_dataset(composed)
    (folder / split).mkdir(parents=True)
    for entry, scene in zip(document["images"], composed, strict=True):
        entry["file_name"] = f"{split}/{entry['id']}.png"
        Image.fromarray(scene.image).save(folder / entry["file_name"])
    path = folder / f"{split}.json"
    path.write_text(json.dumps(document))
    return path


def write_masks(folder: Path, count: int, split: Split, *, side: int = 96, seed: int = 0) -> Path:
    """Write `folder/images`, `folder/masks` and `folder/classes.txt`; gives the folder."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number, scene in enumerate(scenes(count, seed, split, side)):
        Image.fromarray(scene.image).save(folder / "images" / f"{number}.png")
        Image.fromarray(scene.mask).save(folder / "masks" / f"{number}.png")
    (folder / "classes.txt").write_text("\n".join(("background", *CATEGORIES)))
    return folder
