"""A classifier's metrics, against what can be counted by hand and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, top_k_accuracy_score

from bbx.evaluation.metrics import tally_of
from bbx.evaluation.tally import Tally
from bbx.outputs import Classified


def _classified(probabilities: NDArray[np.float64]) -> list[Classified]:
    return [Classified(row, np.argsort(-row, kind="stable")) for row in probabilities]


def _random(count: int, classes: int, seed: int = 0) -> tuple[NDArray[np.float64], list[int]]:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(classes, 0.3), count)
    return probabilities, [int(label) for label in generator.integers(0, classes, count)]


def _tally(probabilities: NDArray[np.float64], labels: list[int]) -> Tally[object]:
    tally = tally_of("classification", probabilities.shape[1])
    for start in range(0, len(labels), 7):  # batches of another size change nothing
        tally.update(_classified(probabilities[start : start + 7]), labels[start : start + 7])
    return tally


def test_against_scikit_learn() -> None:
    probabilities, labels = _random(200, 8)
    tally = _tally(probabilities, labels)
    predicted = probabilities.argmax(axis=1)
    assert tally.result()["top1"] == pytest.approx(accuracy_score(labels, predicted))
    assert tally.result()["top5"] == pytest.approx(
        top_k_accuracy_score(labels, probabilities, k=5, labels=range(8))
    )
    confusion = confusion_matrix(labels, predicted, labels=range(8))
    assert np.array_equal(tally.confusion(), confusion)
    of_three = tally.per_class()[3]
    assert of_three["images"] == labels.count(3)
    assert of_three["accuracy"] == pytest.approx(confusion[3, 3] / labels.count(3))


def test_calibration_error_of_known_confidences() -> None:
    """Eight of ten right at 0.95, nine of ten at 0.65: too few do not make up for too many."""
    sure, unsure = [0.95, 0.05], [0.65, 0.35]
    probabilities = np.array([sure] * 10 + [unsure] * 10)
    labels = [0] * 8 + [1] * 2 + [0] * 9 + [1]
    assert _tally(probabilities, labels).result()["ece"] == pytest.approx(0.5 * 0.15 + 0.5 * 0.25)


def test_of_few_classes_there_is_no_top5() -> None:
    assert set(_tally(*_random(10, 5)).result()) == {"top1", "ece"}


def test_an_answer_that_is_not_a_number_is_wrong() -> None:
    probabilities = np.array([[np.nan, 0.5], [np.nan, 0.5], [0.9, 0.1]])
    tally = _tally(probabilities, [0, 1, 0])
    assert tally.result()["top1"] == pytest.approx(1 / 3)
    assert tally.confusion() is not None
    assert np.array_equal(tally.confusion(), [[1, 0], [0, 0]])


def test_flips_are_counted_by_what_they_change() -> None:
    labels = [0, 0, 1, 2, 2]
    before = np.eye(3)[[0, 1, 1, 0, 0]]
    after = np.eye(3)[[1, 0, 1, 1, 0]]  # wrong now, right now, as before, wrong in another way, as before
    flips = _tally(before, labels).flips(_tally(after, labels))
    assert (flips.of, flips.right_to_wrong, flips.wrong_to_right, flips.wrong_to_wrong) == (5, 1, 1, 1)


def test_a_sample_counts_images_as_often_as_they_were_drawn() -> None:
    probabilities, labels = _random(30, 8)
    counts = np.stack(
        [np.bincount(np.random.default_rng(1).integers(0, 30, 30), minlength=30), np.ones(30, int)]
    )
    tally = _tally(probabilities, labels)
    found = tally.resampled(counts)
    drawn = np.repeat(np.arange(30), counts[0])
    again = _tally(probabilities[drawn], [labels[index] for index in drawn]).result()
    for name, value in again.items():
        assert found[name][0] == pytest.approx(value)
        assert found[name][1] == pytest.approx(tally.result()[name])
