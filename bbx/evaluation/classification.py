"""Top-1, top-5, accuracy of each class, confusion matrix and calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bbx.datasets import Target
from bbx.evaluation.tally import Counts, Flips, Scores, Tally, ratio
from bbx.outputs import Classified, Result

BINS = 15
"""Bins of confidence for the calibration error, as in Guo et al. (2017), table 1."""

NO_ANSWER = -1
"""The class that is answered where probabilities are not numbers; it is never right."""

_MANY = 5


@dataclass(frozen=True, slots=True)
class Classification:
    """One image.

    Attributes:
        label: the right class.
        predicted: the most probable class, or `NO_ANSWER`.
        among_five: whether the right class is among the five most probable.
        confidence: probability of the predicted class.
    """

    label: int
    predicted: int
    among_five: bool
    confidence: float


class ClassificationTally(Tally[Classification]):
    """Metrics of a classifier: `top1`, `top5` (of more than five classes) and `ece`.

    `ece` is the expected calibration error (Guo et al., 2017, equation 3): the mean over the images of how
    far the confidence in their bin is from the accuracy in it.
    """

    primary = "top1"
    lower_is_better = frozenset({"ece"})

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self._classes = num_classes

    def look(self, result: Result, target: Target) -> Classification:
        assert isinstance(result, Classified)
        assert isinstance(target, int)
        if not np.isfinite(result.probabilities).all():
            return Classification(target, NO_ANSWER, among_five=False, confidence=0.0)
        first = int(result.order[0])
        five = target in result.order[:_MANY]
        return Classification(target, first, five, float(result.probabilities[first]))

    def result(self) -> Scores:
        whole = self.resampled(np.ones((1, len(self)), dtype=np.int64))
        return {name: float(values[0]) for name, values in whole.items()}

    def per_class(self) -> dict[int, dict[str, float]]:
        right = self.confusion().diagonal()
        images = np.bincount([each.label for each in self.looks], minlength=self._classes)
        return {
            int(label): {"images": int(images[label]), "accuracy": float(right[label] / images[label])}
            for label in np.flatnonzero(images)
        }

    def confusion(self) -> NDArray[np.int64]:
        answered = [each for each in self.looks if each.predicted != NO_ANSWER]
        cells = [each.label * self._classes + each.predicted for each in answered]
        counts = np.bincount(np.array(cells, dtype=np.int64), minlength=self._classes**2)
        return counts.reshape(self._classes, self._classes)

    def resampled(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        right = np.array([each.label == each.predicted for each in self.looks], dtype=np.float64)
        five = np.array([each.among_five for each in self.looks], dtype=np.float64)
        confidence = np.array([each.confidence for each in self.looks])
        images = counts.sum(axis=1)
        found = {"top1": ratio(counts @ right, images)}
        if self._classes > _MANY:
            found["top5"] = ratio(counts @ five, images)
        # The share of a bin times the gap of its means is the sum of its gaps over the number of all images.
        gaps = counts @ _by_bin(right - confidence, confidence)
        found["ece"] = ratio(np.abs(gaps).sum(axis=1), images)
        return found

    def flips(self, other: Tally[Classification]) -> Flips:
        pairs = list(zip(self.looks, other.looks, strict=True))
        was = np.array([one.predicted == one.label for one, _ in pairs], dtype=np.bool_)
        now = np.array([two.predicted == two.label for _, two in pairs], dtype=np.bool_)
        moved = np.array([one.predicted != two.predicted for one, two in pairs], dtype=np.bool_)
        return Flips(
            of=len(pairs),
            right_to_wrong=int((was & ~now).sum()),
            wrong_to_right=int((~was & now).sum()),
            wrong_to_wrong=int((~was & ~now & moved).sum()),
        )

    def cautions(self) -> list[str]:
        lost = sum(each.predicted == NO_ANSWER for each in self.looks)
        return [f"The answers to {lost} images are not numbers, and count as wrong."] if lost else []


def _by_bin(values: NDArray[np.float64], confidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values [N] in the columns [N, BINS] of their confidence; a bin ends with its upper limit."""
    columns = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    spread = np.zeros((len(values), BINS))
    spread[np.arange(len(values)), columns] = values
    return spread
