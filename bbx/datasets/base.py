"""What every dataset gives: pictures, what is on them, and the names of the classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bbx.datasets.outlines import Outline
from bbx.errors import UsageError
from bbx.types import Task

BACKGROUND = "background"
"""Name of class 0 of detectors and segmenters."""

IGNORED = 255
"""Value of a mask's pixel that nobody judges (PASCAL VOC's convention)."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """What is on one image.

    Attributes:
        boxes: float64 [N, 4] as x1, y1, x2, y2 in pixels of the image.
        labels: int64 [N], in the numbering of the dataset's `classes`; 0 is the background.
        crowd: bool [N], whether the box is around many of them (COCO's `iscrowd`).
        areas: float64 [N] in square pixels: of the outline where there is one, else of the box.
        outlines: one an object; None where the data has none.
        keypoints: float64 [N, K, 3] as x, y in pixels of the image and COCO's visibility: 0 for not labelled,
            1 for hidden, 2 for visible; None where the data has none.
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    outlines: tuple[Outline, ...] | None = None
    keypoints: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.labels)


Mask = NDArray[np.uint8]
"""[H, W], the class of each pixel; `IGNORED` where nobody says."""

Target = int | Boxes | Mask
"""The class of an image, the boxes on it, or the class of each of its pixels, as the task has it."""


class Dataset(ABC):
    """Pictures and what is on them.

    `image` and `target` may be called from several threads, and nothing is kept between two calls.

    Attributes:
        task: what `target` gives.
        classes: their names in the network's numbering; of detection and segmentation with the background
            first.
        named: whether the data itself names them; else they are only numbers, in an order that it does not
            explain.
        keypoints: names of an object's keypoints, of detection; empty where there are none.
    """

    task: Task
    classes: tuple[str, ...]
    named: bool = True
    keypoints: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """How many pictures there are."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call a picture: its file where it has one."""

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """A picture as 8-bit RGB, upright.

        Raises:
            BbxError: it cannot be decoded; names it.
        """

    @abstractmethod
    def target(self, index: int) -> Target:
        """What is on a picture; of a kind that `task` says.

        Raises:
            BbxError: it cannot be read, or a label is out of range; names the file and the label.
        """


class Subset(Dataset):
    """Some pictures of a dataset, in an order of their own."""

    def __init__(self, whole: Dataset, indices: Sequence[int]) -> None:
        self.task, self.classes, self.named = whole.task, whole.classes, whole.named
        self.keypoints = whole.keypoints
        self._whole, self._indices = whole, tuple(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        return self._whole.name(self._indices[index])

    def image(self, index: int) -> Image.Image:
        return self._whole.image(self._indices[index])

    def target(self, index: int) -> Target:
        return self._whole.target(self._indices[index])


def subset(dataset: Dataset, indices: Sequence[int]) -> Dataset:
    """The pictures at these indices, in their order.

    Raises:
        IndexError: an index is out of range.
    """
    for index in indices:
        if not 0 <= index < len(dataset):
            raise IndexError(f"there is no picture {index} among {len(dataset)}")
    return Subset(dataset, indices)


def split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Divide a dataset in two parts by chance: the same seed gives the same parts.

    Of each class of a classification the same share is taken, and at least one picture where there are two;
    a class's only picture stays in the first part.

    Args:
        fraction: of the second part, between 0 and 1.

    Returns:
        The rest, and the fraction; both in the dataset's order.

    Raises:
        UsageError: the fraction leaves one of the parts empty.
    """
    if not 0 < fraction < 1:
        raise UsageError(
            f"A part of {fraction:g} cannot be split off.", hint="Give a share above 0 and below 1."
        )
    generator = np.random.default_rng(seed)
    second = {index for group in _groups(dataset) for index in _drawn(group, fraction, generator)}
    first = [index for index in range(len(dataset)) if index not in second]
    if not first or not second:
        raise UsageError(
            f"{len(dataset)} images cannot be split in two parts.",
            hint="Give more images, or a split folder.",
        )
    return Subset(dataset, first), Subset(dataset, sorted(second))


def _groups(dataset: Dataset) -> Iterator[NDArray[np.int64]]:
    """The indices of each class, or of everything where pictures have no class."""
    if dataset.task != "classification":
        yield np.arange(len(dataset))
        return
    labels = np.array([dataset.target(index) for index in range(len(dataset))])
    for label in np.unique(labels):
        yield np.flatnonzero(labels == label)


def _drawn(group: NDArray[np.int64], fraction: float, generator: np.random.Generator) -> list[int]:
    count = min(max(1, round(len(group) * fraction)), len(group) - 1)
    return [int(index) for index in generator.permutation(group)[:count]]
