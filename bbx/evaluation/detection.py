"""COCO's mean average precision, over the images and over samples of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bbx.datasets import Boxes, Target, encoded, encoded_pixels
from bbx.evaluation.average_precision import Detection, Kind, evaluated, judged
from bbx.evaluation.tally import Counts, Flips, Scores, Tally
from bbx.outputs import Detected, Result

FOUND_IOU = 0.5
"""Overlap from which an annotated object counts as found, as in mAP at 0.5."""

FOUND_SCORE = 0.5
"""Score from which a detection counts when single objects are judged; mAP takes all."""

_SUMMARY: dict[Kind, tuple[str, ...]] = {
    "bbox": ("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large", "mAR1", "mAR10", "mAR100"),
    "segm": tuple(
        f"mask_{name}" for name in ("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large")
    ),
    "keypoints": tuple(
        f"keypoint_{name}" for name in ("mAP", "mAP50", "mAP75", "mAP_medium", "mAP_large", "mAR20")
    ),
}
"""COCO's numbers in the order in which its summary has them."""

_PREFIX: dict[Kind, str] = {"bbox": "", "segm": "mask_", "keypoints": "keypoint_"}


class DetectionTally(Tally[Detection]):
    """Metrics of a detector as COCO defines them, computed by faster-coco-eval.

    `mAP` is the mean of the average precision over ten overlaps from 0.5 to 0.95 and over the classes that
    are annotated; `mAP50` and `mAP75` at one overlap; `mAP_small` (areas up to 32² pixels), `mAP_medium` and
    `mAP_large` (from 96²); `mAR100` the mean recall with at most 100 detections. A part
    without annotations is left out. `mask_mAP` and so on compare outlines in place of boxes, and
    `keypoint_mAP` keypoints by their similarity (OKS), where both the data and the network have them.
    """

    primary = "mAP"

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self._labels = range(1, num_classes)

    def look(self, result: Result, target: Target) -> Detection:
        assert isinstance(result, Detected)
        assert isinstance(target, Boxes)
        real = np.isfinite(result.scores)
        found = replace(
            result,
            boxes=result.boxes[real],
            scores=result.scores[real],
            labels=result.labels[real],
            masks=None,
            keypoints=None if result.keypoints is None else result.keypoints[real],
        )
        if result.masks is None or target.outlines is None:
            return Detection(target, found)
        size = (result.masks.shape[2], result.masks.shape[1])
        outlines = [encoded(each, size) for each in target.outlines]
        # Encoded, since masks are large.
        return Detection(target, found, outlines, encoded_pixels(result.masks[real]), size)

    def result(self) -> Scores:
        scores: Scores = {}
        for kind in judged(self.looks):
            evaluation = evaluated(self.looks, self._labels, kind)
            evaluation.accumulate()
            evaluation.summarize()
            stats = zip(_SUMMARY[kind], evaluation.stats, strict=False)
            scores |= {name: float(value) for name, value in stats if value >= 0}
        return scores

    def per_class(self) -> dict[int, dict[str, float]]:
        labels = [label for each in self.looks for label in each.wanted.labels]
        objects = np.bincount(np.array(labels, dtype=np.int64), minlength=self._labels.stop)
        rows: dict[int, dict[str, float]] = {}
        for kind in judged(self.looks):
            evaluation = evaluated(self.looks, self._labels, kind)
            evaluation.accumulate()
            precision = evaluation.eval["precision"][:, :, :, 0, -1]  # overlap, recall, class
            for index, label in enumerate(self._labels):
                if (precision[:, :, index] >= 0).any():
                    row = rows.setdefault(label, {"objects": int(objects[label])})
                    row[f"{_PREFIX[kind]}AP"] = float(precision[:, :, index].mean())
                    row[f"{_PREFIX[kind]}AP50"] = float(precision[0, :, index].mean())
        return rows

    def resampled(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        samples: dict[str, NDArray[np.float64]] = {}
        for kind in judged(self.looks):
            samples |= self._resampled(counts, kind)
        return samples

    def _resampled(self, counts: Counts, kind: Kind) -> dict[str, NDArray[np.float64]]:
        # Detections are matched to objects image by image, whatever the other images are: so the matching is
        # done once, and each sample gathers the images that it has drawn.
        evaluation = evaluated(self.looks, self._labels, kind, sizes=False)
        matched = evaluation._evalImgs_cpp  # class by class, and in each image by image
        found = np.full((3, len(counts)), np.nan)
        for row, times in enumerate(counts):
            drawn = np.repeat(np.arange(len(self)), times)
            evaluation._evalImgs_cpp = [
                matched[index * len(self) + image] for index in range(len(self._labels)) for image in drawn
            ]
            evaluation.accumulate()
            precision = evaluation.eval["precision"]
            for number, part in enumerate((precision, precision[0], precision[5])):
                known = part[part > -1]
                found[number, row] = known.mean() if known.size else np.nan
        names = (f"{_PREFIX[kind]}{name}" for name in ("mAP", "mAP50", "mAP75"))
        return dict(zip(names, found, strict=True))

    def flips(self, other: Tally[Detection]) -> Flips:
        pairs = list(zip(self.looks, other.looks, strict=True))
        was = np.concatenate([np.zeros(0, np.bool_), *(found_objects(one) for one, _ in pairs)])
        now = np.concatenate([np.zeros(0, np.bool_), *(found_objects(two) for _, two in pairs)])
        return Flips(len(was), int((was & ~now).sum()), int((~was & now).sum()), 0)

    def cautions(self) -> list[str]:
        full = sum(each.found.saturated for each in self.looks)
        return [f"A limit of the network was reached on {full} images (saturated)."] if full else []


def mean_ap(targets: Sequence[Boxes], found: Sequence[Detected], num_classes: int) -> Scores:
    """COCO's metrics of detections; see `DetectionTally`.

    Args:
        targets: what is on each image.
        found: what was found on each, in the same numbering.
        num_classes: with the background, which is class 0.
    """
    tally = DetectionTally(num_classes)
    tally.update(found, targets)
    return tally.result()


def found_objects(look: Detection) -> NDArray[np.bool_]:
    """Which of the annotated objects of an image were found, crowds left out.

    As in COCO's matching, detections choose in the order of their scores, each the object of its class that
    it overlaps most and that nobody has chosen.
    """
    single = ~look.wanted.crowd
    boxes, labels = look.wanted.boxes[single], look.wanted.labels[single]
    taken = np.zeros(len(labels), dtype=np.bool_)
    overlaps = _overlaps(look.found.boxes, boxes)
    for row in np.argsort(-look.found.scores, kind="stable"):
        if look.found.scores[row] < FOUND_SCORE:
            break
        free = np.where((labels == look.found.labels[row]) & ~taken, overlaps[row], 0.0)
        if free.size and free.max() >= FOUND_IOU:
            taken[free.argmax()] = True
    return taken


def _overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union [N, M] of boxes [N, 4] and [M, 4]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (first, second)]
    union = areas[0][:, None] + areas[1][None] - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))
