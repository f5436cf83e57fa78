"""Labelled pictures: class folders, COCO files, masks, and torchvision's datasets by name.

data = open_dataset("pets", "classification", split="train")
held_in, held_out = split(data, 0.2, seed=0)
data.image(0), data.target(0), data.classes
"""

from bbx.datasets.base import BACKGROUND, IGNORED, Boxes, Dataset, Mask, Target, split, subset
from bbx.datasets.opening import open_dataset, splits_of
from bbx.datasets.outlines import Outline, encoded, encoded_pixels, fault_of, pixels

__all__ = [
    "BACKGROUND",
    "IGNORED",
    "Boxes",
    "Dataset",
    "Mask",
    "Outline",
    "Target",
    "encoded",
    "encoded_pixels",
    "fault_of",
    "open_dataset",
    "pixels",
    "split",
    "splits_of",
    "subset",
]
