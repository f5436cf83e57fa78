"""Mean IoU, IoU of each class and pixel accuracy."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bbx.datasets import IGNORED, Target
from bbx.errors import BbxError
from bbx.evaluation.tally import Counts, Flips, Scores, Tally, ratio
from bbx.outputs import Result, Segmented


@dataclass(frozen=True, slots=True)
class Segmentation:
    """One image, of whose pixels those count that are not ignored.

    Attributes:
        cells: int64 [K], class × C + predicted class, of all such pairs that occur.
        pixels: int64 [K], of each pair.
        masks: what is wanted and what was predicted, uint8 [2, judged pixels], compressed: label maps are
            large, and mostly areas of one value.
    """

    cells: NDArray[np.int64]
    pixels: NDArray[np.int64]
    masks: bytes


class SegmentationTally(Tally[Segmentation]):
    """Metrics of a segmenter: `mIoU` and `pixel_accuracy`.

    `mIoU` is the mean, over the classes that stand in the images or in the answers, of intersection over
    union, summed over all pixels of all images (PASCAL VOC's measure; Everingham et al., 2010, section 4.3).
    """

    primary = "mIoU"

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self._classes = num_classes

    def look(self, result: Result, target: Target) -> Segmentation:
        assert isinstance(result, Segmented)
        assert isinstance(target, np.ndarray)
        if result.labels.shape != target.shape:
            raise BbxError(f"A mask is {_size(target)}, and its image {_size(result.labels)}.")
        judged = target != IGNORED
        wanted, given = target[judged].astype(np.int64), result.labels[judged].astype(np.int64)
        cells, pixels = np.unique(wanted * self._classes + given, return_counts=True)
        masks = np.stack([wanted, given]).astype(np.uint8)
        return Segmentation(cells, pixels, zlib.compress(masks.tobytes(), level=1))

    def result(self) -> Scores:
        confusion = self.confusion()
        return {
            "mIoU": mean_iou(confusion),
            "pixel_accuracy": float(ratio(confusion.trace(), confusion.sum())),
        }

    def per_class(self) -> dict[int, dict[str, float]]:
        confusion = self.confusion()
        shares, pixels = ious(confusion), confusion.sum(axis=1)
        return {
            int(label): {"pixels": int(pixels[label]), "iou": float(shares[label])}
            for label in np.flatnonzero(~np.isnan(shares))
        }

    def confusion(self) -> NDArray[np.int64]:
        total = np.zeros(self._classes**2, dtype=np.int64)
        for each in self.looks:
            total[each.cells] += each.pixels
        return total.reshape(self._classes, self._classes)

    def resampled(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        wanted, given, common = np.zeros((3, len(self), self._classes))
        for row, each in enumerate(self.looks):
            truth, answer = np.divmod(each.cells, self._classes)
            np.add.at(wanted[row], truth, each.pixels)
            np.add.at(given[row], answer, each.pixels)
            common[row, truth[truth == answer]] = each.pixels[truth == answer]
        wanted, given, common = counts @ wanted, counts @ given, counts @ common
        return {
            "mIoU": np.nanmean(ratio(common, wanted + given - common), axis=1),
            "pixel_accuracy": ratio(common.sum(axis=1), wanted.sum(axis=1)),
        }

    def flips(self, other: Tally[Segmentation]) -> Flips:
        total = np.zeros(4, dtype=np.int64)
        for one, two in zip(self.looks, other.looks, strict=True):
            (wanted, first), (_, second) = _unpacked(one), _unpacked(two)
            was, now = first == wanted, second == wanted
            moved = first != second
            parts = (np.ones_like(was), was & ~now, ~was & now, ~was & ~now & moved)
            total += [int(part.sum()) for part in parts]
        return Flips(*map(int, total))


def ious(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class; NaN for one that stands neither in the truth nor in the answer.

    Args:
        confusion: int64 [C, C], the truth in rows.
    """
    common = confusion.diagonal()
    return ratio(common, confusion.sum(axis=0) + confusion.sum(axis=1) - common)


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """Mean of `ious` over the classes that occur; NaN where there is no pixel."""
    shares = ious(confusion)
    return float(np.nanmean(shares)) if confusion.any() else float("nan")


def _unpacked(look: Segmentation) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.decompress(look.masks), dtype=np.uint8).reshape(2, -1)


def _size(mask: NDArray[Any]) -> str:
    return f"{mask.shape[1]} × {mask.shape[0]}"
