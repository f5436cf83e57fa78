"""A segmenter's metrics, against what can be counted by hand and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, jaccard_score

from bbx.datasets import IGNORED
from bbx.errors import BbxError
from bbx.evaluation.metrics import mean_iou, tally_of
from bbx.evaluation.tally import Tally
from bbx.outputs import Segmented


def _tally(
    wanted: list[NDArray[np.uint8]], given: list[NDArray[np.int64]], classes: int = 4
) -> Tally[object]:
    tally = tally_of("segmentation", classes)
    tally.update([Segmented(each) for each in given], wanted)
    return tally


def _random(count: int, seed: int = 0) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.int64]]]:
    generator = np.random.default_rng(seed)
    wanted = [generator.integers(0, 4, (9, 11)).astype(np.uint8) for _ in range(count)]
    given = [np.where(generator.random((9, 11)) < 0.6, each, 1).astype(np.int64) for each in wanted]
    return wanted, given


def test_against_scikit_learn_with_pixels_that_nobody_judges() -> None:
    wanted, given = _random(6)
    for each in wanted:
        each[0] = IGNORED
    truth, answer = (np.concatenate([each[1:].ravel() for each in parts]) for parts in (wanted, given))
    tally = _tally(wanted, given)
    assert tally.result()["mIoU"] == pytest.approx(jaccard_score(truth, answer, average="macro"))
    assert tally.result()["pixel_accuracy"] == pytest.approx(accuracy_score(truth, answer))
    shares = jaccard_score(truth, answer, average=None)
    assert [tally.per_class()[label]["iou"] for label in range(4)] == pytest.approx(shares)
    assert tally.per_class()[2]["pixels"] == (truth == 2).sum()


def test_a_class_that_occurs_nowhere_does_not_count() -> None:
    mask, answer = np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 0, 1, 2]], np.int64)
    tally = _tally([mask], [answer], classes=9)
    assert tally.result()["mIoU"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert set(tally.per_class()) == {0, 1, 2}
    assert np.isnan(mean_iou(np.zeros((3, 3), np.int64)))


def test_a_sample_counts_images_as_often_as_they_were_drawn() -> None:
    wanted, given = _random(12)
    counts = np.bincount(np.random.default_rng(5).integers(0, 12, 12), minlength=12)
    drawn = np.repeat(np.arange(12), counts)
    again = _tally([wanted[index] for index in drawn], [given[index] for index in drawn]).result()
    tally = _tally(wanted, given)
    for name, values in tally.resampled(np.stack([counts, np.ones_like(counts)])).items():
        assert values[0] == pytest.approx(again[name])
        assert values[1] == pytest.approx(tally.result()[name])


def test_flips_are_counted_by_pixels() -> None:
    wanted = np.array([[0, 0, 1, 2, IGNORED]], np.uint8)
    before, after = np.array([[0, 1, 1, 0, 0]]), np.array([[1, 0, 1, 1, 1]])
    flips = _tally([wanted], [before]).flips(_tally([wanted], [after]))
    assert (flips.of, flips.right_to_wrong, flips.wrong_to_right, flips.wrong_to_wrong) == (4, 1, 1, 1)


def test_a_mask_of_another_size_is_named() -> None:
    with pytest.raises(BbxError, match="A mask is 3 × 2, and its image 4 × 2"):
        _tally([np.zeros((2, 3), np.uint8)], [np.zeros((2, 4), np.int64)])
