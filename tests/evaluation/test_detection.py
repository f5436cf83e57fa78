"""COCO's numbers: equal to pycocotools on composed scenes, and over samples of the images."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bbx.datasets import Boxes
from bbx.evaluation.detection import DetectionTally, found_objects
from bbx.evaluation.metrics import mean_ap
from bbx.outputs import Detected
from tests.scenes.compose import CATEGORIES, Scene, scenes

CLASSES = len(CATEGORIES) + 1
NAMES = ("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large", "mAR1", "mAR10", "mAR100")


def _wanted(scene: Scene, crowd: int | None = None) -> Boxes:
    boxes = scene.boxes.astype(np.float64)
    crowds = np.zeros(len(boxes), np.bool_)
    if crowd is not None:
        crowds[crowd] = True
    return Boxes(boxes, scene.labels, crowds, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def _found(scene: Scene, seed: int, spread: float = 4.0) -> Detected:
    """Each object several times at changing places, some under another label."""
    generator = np.random.default_rng(seed)
    boxes = np.repeat(scene.boxes.astype(np.float64), 4, axis=0)
    boxes = boxes + generator.normal(0, spread, boxes.shape)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    labels = np.repeat(scene.labels, 4)
    wrong = generator.random(len(labels)) < 0.2
    labels = np.where(wrong, labels % 10 + 1, labels)
    return Detected(boxes, generator.random(len(labels)), labels, None, None, saturated=False)


@pytest.fixture(scope="module")
def answers() -> tuple[list[Boxes], list[Detected]]:
    composed = scenes(16, 4, "test", 320) + scenes(8, 4, "test", 96)
    wanted = [_wanted(scene, crowd=0 if number % 6 == 0 else None) for number, scene in enumerate(composed)]
    return wanted, [_found(scene, number) for number, scene in enumerate(composed)]


def _oracle(wanted: Sequence[Boxes], found: Sequence[Detected]) -> dict[str, float]:
    def sides(box: Any) -> list[float]:
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    annotations = [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": sides(box),
            "area": float(area),
            "iscrowd": int(crowd),
        }
        for image, each in enumerate(wanted)
        for box, label, crowd, area in zip(each.boxes, each.labels, each.crowd, each.areas, strict=True)
    ]
    results = [
        {"image_id": image, "category_id": int(label), "bbox": sides(box), "score": float(score)}
        for image, each in enumerate(found)
        for box, label, score in zip(each.boxes, each.labels, each.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by printing
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(wanted))],
            "annotations": [{"id": number, **row} for number, row in enumerate(annotations, start=1)],
            "categories": [{"id": label, "name": str(label)} for label in range(1, CLASSES)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(value) for name, value in zip(NAMES, evaluation.stats, strict=False) if value >= 0}


def test_equal_to_pycocotools(answers: tuple[list[Boxes], list[Detected]]) -> None:
    wanted, found = answers
    ours, theirs = mean_ap(wanted, found, CLASSES), _oracle(wanted, found)
    assert ours.keys() == theirs.keys() >= {"mAP", "mAP50", "mAP_small", "mAP_medium", "mAR100"}
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-6), name
    assert 0.1 < ours["mAP"] < ours["mAP50"] < 0.9


def test_a_sample_is_the_images_as_often_as_they_were_drawn(
    answers: tuple[list[Boxes], list[Detected]],
) -> None:
    """Resampling what was matched gives what pycocotools gives for a dataset in which images stand twice."""
    wanted, found = answers
    tally = DetectionTally(CLASSES)
    tally.update(found, wanted)
    counts = np.bincount(
        np.random.default_rng(3).integers(0, len(wanted), len(wanted)), minlength=len(wanted)
    )
    drawn = np.repeat(np.arange(len(wanted)), counts)
    assert len(set(drawn)) < len(drawn)
    theirs = _oracle([wanted[index] for index in drawn], [found[index] for index in drawn])
    ours = tally.resampled(np.stack([counts, np.ones_like(counts)]))
    for name, values in ours.items():
        assert values[0] == pytest.approx(theirs[name], abs=1e-6)
        assert values[1] == pytest.approx(tally.result()[name], abs=1e-6)


def test_the_truth_scores_one_and_nothing_scores_nought(answers: tuple[list[Boxes], list[Detected]]) -> None:
    wanted, _ = answers
    truth = [
        Detected(each.boxes, np.ones(len(each)), each.labels, None, None, saturated=False) for each in wanted
    ]
    assert mean_ap(wanted, truth, CLASSES)["mAP"] == pytest.approx(1.0)
    nothing = Detected(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), None, None, saturated=False)
    assert mean_ap(wanted, [nothing] * len(wanted), CLASSES)["mAP"] == 0.0


def test_scores_that_are_not_numbers_find_nothing(answers: tuple[list[Boxes], list[Detected]]) -> None:
    wanted, _ = answers
    broken = [
        Detected(each.boxes, np.full(len(each), np.nan), each.labels, None, None, saturated=False)
        for each in wanted
    ]
    assert mean_ap(wanted, broken, CLASSES)["mAP"] == 0.0


def test_each_class_has_its_own_precision(answers: tuple[list[Boxes], list[Detected]]) -> None:
    wanted, found = answers
    tally = DetectionTally(CLASSES)
    tally.update(found, wanted)
    by_class = tally.per_class()
    assert np.mean([each["AP"] for each in by_class.values()]) == pytest.approx(tally.result()["mAP"])
    assert sum(each["objects"] for each in by_class.values()) == sum(map(len, wanted))


def _boxes(*corners: tuple[float, float, float, float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(corners, dtype=np.float64).reshape(-1, 4)


def test_which_objects_count_as_found() -> None:
    wanted = Boxes(
        _boxes((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (60, 0, 70, 10)),
        np.array([1, 1, 2, 1]),
        np.array([False, False, False, True]),
        np.full(4, 100.0),
    )
    tally = DetectionTally(3)
    found = Detected(
        # Right; the same object again; too little overlap; under another label; the crowd.
        _boxes((0, 0, 10, 9), (0, 0, 10, 10), (26, 0, 36, 10), (40, 0, 50, 10), (60, 0, 70, 10)),
        np.array([0.9, 0.8, 0.9, 0.9, 0.9]),
        np.array([1, 1, 1, 1, 1]),
        None,
        None,
        saturated=False,
    )
    tally.update([found], [wanted])
    assert found_objects(tally.looks[0]).tolist() == [True, False, False]
    unsure = Detected(_boxes((0, 0, 10, 10)), np.array([0.4]), np.array([1]), None, None, saturated=False)
    other = DetectionTally(3)
    other.update([unsure], [wanted])
    flips = tally.flips(other)
    assert (flips.of, flips.right_to_wrong, flips.wrong_to_right, flips.wrong_to_wrong) == (3, 1, 0, 0)


def test_of_two_objects_that_overlap_each_is_found_once() -> None:
    wanted = Boxes(
        _boxes((0, 0, 10, 10), (0, 2, 10, 12)), np.array([1, 1]), np.array([False, False]), np.full(2, 100.0)
    )
    tally = DetectionTally(2)
    for boxes in (_boxes((0, 0, 10, 10), (0, 0, 10, 10)), _boxes((0, 0, 10, 10))):
        count = len(boxes)
        found = Detected(boxes, np.full(count, 0.9), np.ones(count, np.int64), None, None, saturated=False)
        tally.update([found], [wanted])
    assert [found_objects(look).tolist() for look in tally.looks] == [[True, True], [True, False]]
