"""COCO's mean average precision, over the images and over samples of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bbx.datasets import Boxes, Target
from bbx.evaluation.tally import Counts, Flips, Scores, Tally
from bbx.outputs import Detected, Result

FOUND_IOU = 0.5
"""Overlap from which an annotated object counts as found, as in mAP at 0.5."""

FOUND_SCORE = 0.5
"""Score from which a detection counts when single objects are judged; mAP takes all."""

MOST_DETECTIONS = 100
"""Of one image and class that count, as COCO has it."""

_SUMMARY = ("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large", "mAR1", "mAR10", "mAR100")
"""COCO's numbers in the order in which its summary has them."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One image: what is on it, and what was found."""

    wanted: Boxes
    found: Detected


class DetectionTally(Tally[Detection]):
    """Metrics of a detector as COCO defines them, computed by faster-coco-eval.

    `mAP` is the mean of the average precision over ten overlaps from 0.5 to 0.95 and over the classes that
    are annotated; `mAP50` and `mAP75` at one overlap; `mAP_small` (areas up to 32² pixels), `mAP_medium` and
    `mAP_large` (from 96²); `mAR100` the mean recall with at most 100 detections. A part
    without annotations is left out.
    """

    primary = "mAP"

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self._labels = range(1, num_classes)

    def look(self, result: Result, target: Target) -> Detection:
        assert isinstance(result, Detected)
        assert isinstance(target, Boxes)
        real = np.isfinite(result.scores)
        # Masks are large, and nothing judges them here.
        found = replace(
            result,
            boxes=result.boxes[real],
            scores=result.scores[real],
            labels=result.labels[real],
            masks=None,
            keypoints=None,
        )
        return Detection(target, found)

    def result(self) -> Scores:
        evaluation = self._evaluated()
        evaluation.accumulate()
        evaluation.summarize()
        return {
            name: float(value) for name, value in zip(_SUMMARY, evaluation.stats, strict=False) if value >= 0
        }

    def per_class(self) -> dict[int, dict[str, float]]:
        evaluation = self._evaluated()
        evaluation.accumulate()
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # overlap, recall, class
        labels = [label for each in self.looks for label in each.wanted.labels]
        objects = np.bincount(np.array(labels, dtype=np.int64), minlength=self._labels.stop)
        return {
            label: {
                "objects": int(objects[label]),
                "AP": float(precision[:, :, index].mean()),
                "AP50": float(precision[0, :, index].mean()),
            }
            for index, label in enumerate(self._labels)
            if (precision[:, :, index] >= 0).any()
        }

    def resampled(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        # Detections are matched to objects image by image, whatever the other images are: so the matching is
        # done once, and each sample gathers the images that it has drawn.
        evaluation = self._evaluated(sizes=False)
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
        return dict(zip(("mAP", "mAP50", "mAP75"), found, strict=True))

    def flips(self, other: Tally[Detection]) -> Flips:
        pairs = list(zip(self.looks, other.looks, strict=True))
        was = np.concatenate([np.zeros(0, np.bool_), *(found_objects(one) for one, _ in pairs)])
        now = np.concatenate([np.zeros(0, np.bool_), *(found_objects(two) for _, two in pairs)])
        return Flips(len(was), int((was & ~now).sum()), int((~was & now).sum()), 0)

    def cautions(self) -> list[str]:
        full = sum(each.found.saturated for each in self.looks)
        return [f"A limit of the network was reached on {full} images (saturated)."] if full else []

    def _evaluated(self, *, sizes: bool = True) -> Any:
        """faster-coco-eval's evaluation, before its numbers are accumulated.

        Args:
            sizes: for each size of objects and number of detections; else for all of them together.
        """
        from faster_coco_eval import COCO, COCOeval_faster

        truth = COCO(_annotations(self.looks, self._labels))
        found = truth.loadRes(_detections(self.looks)) if _detections(self.looks) else COCO(_nothing(truth))
        evaluation = COCOeval_faster(truth, found, "bbox", print_function=_unsaid, separate_eval=True)
        if not sizes:
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [evaluation.params.areaRng[0]], ["all"]
            evaluation.params.maxDets = [MOST_DETECTIONS]
        evaluation.evaluate()
        return evaluation


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


def _annotations(looks: Sequence[Detection], labels: range) -> dict[str, Any]:
    rows = [
        {
            "image_id": number,
            "category_id": int(label),
            "bbox": _sides(box),
            "area": float(area),
            "iscrowd": int(crowd),
        }
        for number, look in enumerate(looks, start=1)
        for box, label, crowd, area in zip(
            look.wanted.boxes, look.wanted.labels, look.wanted.crowd, look.wanted.areas, strict=True
        )
    ]
    return {
        "info": {},
        # The sizes are needed for masks only.
        "images": [{"id": number, "width": 0, "height": 0} for number in range(1, len(looks) + 1)],
        "annotations": [{"id": number, **row} for number, row in enumerate(rows, start=1)],
        "categories": [{"id": label, "name": str(label)} for label in labels],
    }


def _detections(looks: Sequence[Detection]) -> list[dict[str, Any]]:
    return [
        {"image_id": number, "category_id": int(label), "bbox": _sides(box), "score": float(score)}
        for number, look in enumerate(looks, start=1)
        for box, label, score in zip(look.found.boxes, look.found.labels, look.found.scores, strict=True)
    ]


def _nothing(truth: Any) -> dict[str, Any]:
    """A file of detections without any, which faster-coco-eval's own reader does not take."""
    return {**truth.dataset, "annotations": []}


def _sides(box: NDArray[np.float64]) -> list[float]:
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2 - x1, y2 - y1]


def _unsaid(*words: object) -> None:
    """Takes what a library would print."""
