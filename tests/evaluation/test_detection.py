"""COCO's numbers: equal to pycocotools on composed scenes, and over samples of the images."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bbx.datasets import Boxes, encoded_pixels
from bbx.errors import BbxError
from bbx.evaluation.detection import DetectionTally, found_objects
from bbx.evaluation.metrics import mean_ap
from bbx.outputs import Detected
from tests.scenes.compose import CATEGORIES, Scene, digit_masks, scenes

CLASSES = len(CATEGORIES) + 1
NAMES = ("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large", "mAR1", "mAR10", "mAR100")


def _wanted(scene: Scene, crowd: int | None = None) -> Boxes:
    boxes = scene.boxes.astype(np.float64)
    crowds = np.zeros(len(boxes), np.bool_)
    if crowd is not None:
        crowds[crowd] = True
    return Boxes(boxes, scene.labels, crowds, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def _corners(boxes: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Corners of boxes as keypoints; of some objects not all, or none, are labelled."""
    points = np.stack([boxes[:, [0, 1]], boxes[:, [2, 1]], boxes[:, [0, 3]], boxes[:, [2, 3]]], axis=1)
    seen = generator.integers(0, 3, (len(boxes), 4, 1)).astype(np.float64)
    seen[::7] = 0
    return np.concatenate([points, seen], axis=-1)


def _with_parts(scene: Scene, wanted: Boxes, found: Detected, seed: int) -> tuple[Boxes, Detected]:
    """Outlines and keypoints too: found ones are shifted by some pixels."""
    generator = np.random.default_rng(seed)
    planes = digit_masks(scene)
    shifts = generator.integers(-4, 5, (len(found.boxes), 2))
    masks = np.stack([np.roll(planes[row // 4], shift, (0, 1)) for row, shift in enumerate(shifts)])
    keypoints = _corners(found.boxes, generator)
    return (
        replace(
            wanted,
            outlines=tuple(encoded_pixels(planes)),
            keypoints=_corners(wanted.boxes, generator),
            areas=planes.sum(axis=(1, 2)).astype(np.float64),
        ),
        replace(found, masks=masks, keypoints=keypoints),
    )


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


def _composed() -> list[Scene]:
    return scenes(16, 4, "test", 320) + scenes(8, 4, "test", 96)


@pytest.fixture(scope="module")
def answers() -> tuple[list[Boxes], list[Detected]]:
    composed = _composed()
    wanted = [_wanted(scene, crowd=0 if number % 6 == 0 else None) for number, scene in enumerate(composed)]
    return wanted, [_found(scene, number) for number, scene in enumerate(composed)]


@pytest.fixture(scope="module")
def whole(answers: tuple[list[Boxes], list[Detected]]) -> tuple[list[Boxes], list[Detected]]:
    """The same with outlines and keypoints."""
    pairs = [
        _with_parts(scene, wanted, found, number)
        for number, (scene, wanted, found) in enumerate(zip(_composed(), *answers, strict=True))
    ]
    return [wanted for wanted, _ in pairs], [found for _, found in pairs]


def _oracle(
    wanted: Sequence[Boxes], found: Sequence[Detected], kind: str = "bbox", names: Sequence[str] = NAMES
) -> dict[str, float]:
    """pycocotools' numbers."""

    def parts(each: Boxes | Detected, row: int) -> dict[str, Any]:
        """What is compared; an answer has nothing else, or its area would be that of its box."""
        if kind == "keypoints":
            assert each.keypoints is not None
            points = each.keypoints[row]
            return {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
        if kind == "bbox":
            return {"bbox": sides(each.boxes[row])}
        if isinstance(each, Boxes):
            assert each.outlines is not None
            return {"segmentation": each.outlines[row]}
        assert each.masks is not None
        return {"segmentation": mask.encode(np.asfortranarray(each.masks[row].astype(np.uint8)))}

    def sides(box: Any) -> list[float]:
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    annotations = [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": sides(each.boxes[row]),
            "area": float(area),
            "iscrowd": int(crowd),
            **parts(each, row),
        }
        for image, each in enumerate(wanted)
        for row, (label, crowd, area) in enumerate(zip(each.labels, each.crowd, each.areas, strict=True))
    ]
    results = [
        {"image_id": image, "category_id": int(label), "score": float(score), **parts(each, row)}
        for image, each in enumerate(found)
        for row, (label, score) in enumerate(zip(each.labels, each.scores, strict=True))
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by printing
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": image, "height": 0, "width": 0} for image in range(len(wanted))],
            "annotations": [{"id": number, **row} for number, row in enumerate(annotations, start=1)],
            "categories": [{"id": label, "name": str(label)} for label in range(1, CLASSES)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        if kind == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.full(4, 0.05)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(value) for name, value in zip(names, evaluation.stats, strict=False) if value >= 0}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("segm", ("mask_mAP", "mask_mAP50", "mask_mAP75", "mask_mAP_small", "mask_mAP_medium")),
        ("keypoints", ("keypoint_mAP", "keypoint_mAP50", "keypoint_mAP75", "keypoint_mAP_medium")),
    ],
)
def test_outlines_and_keypoints_as_pycocotools_has_them(
    whole: tuple[list[Boxes], list[Detected]], kind: str, names: tuple[str, ...]
) -> None:
    wanted, found = whole
    ours, theirs = mean_ap(wanted, found, CLASSES), _oracle(wanted, found, kind, names)
    assert set(theirs) == set(names)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-6), name
    assert 0.05 < theirs[names[0]] < theirs[names[1]] < 0.95
    assert ours["mAP"] == pytest.approx(_oracle(wanted, found)["mAP"], abs=1e-6)


def test_outlines_and_keypoints_over_samples_and_by_class(whole: tuple[list[Boxes], list[Detected]]) -> None:
    wanted, found = whole
    tally = DetectionTally(CLASSES)
    tally.update(found, wanted)
    scores, samples = tally.result(), tally.resampled(np.ones((1, len(wanted)), np.int64))
    for name in ("mAP", "mask_mAP", "mask_mAP50", "keypoint_mAP", "keypoint_mAP75"):
        assert samples[name][0] == pytest.approx(scores[name], abs=1e-6), name
    for prefix in ("", "mask_", "keypoint_"):
        known = [row[f"{prefix}AP"] for row in tally.per_class().values() if f"{prefix}AP" in row]
        assert np.mean(known) == pytest.approx(scores[f"{prefix}mAP"])


def test_classes_that_nobody_annotated_have_no_row(whole: tuple[list[Boxes], list[Detected]]) -> None:
    """And the others keep their numbers, whatever they are judged by."""
    wanted, found = (each[:2] for each in whole)
    tally = DetectionTally(CLASSES)
    tally.update(found, wanted)
    rows = tally.per_class()
    assert set(rows) == {int(label) for each in wanted for label in each.labels[~each.crowd]}
    assert 0 < len(rows) < CLASSES - 1
    samples = tally.resampled(np.ones((1, 2), np.int64))
    theirs = {
        **_oracle(wanted, found),
        **_oracle(wanted, found, "segm", ("mask_mAP",)),
        **_oracle(wanted, found, "keypoints", ("keypoint_mAP",)),
    }
    for name in ("mAP", "mask_mAP", "keypoint_mAP"):
        assert samples[name][0] == pytest.approx(theirs[name], abs=1e-6), name
    labelled = [
        label
        for each in wanted
        if each.keypoints is not None
        for label, points, crowd in zip(each.labels, each.keypoints, each.crowd, strict=True)
        if (points[:, 2] > 0).any() and not crowd
    ]
    assert {label for label, row in rows.items() if "keypoint_AP" in row} == set(map(int, labelled))


def test_what_the_data_or_the_network_does_not_have_is_not_judged(
    whole: tuple[list[Boxes], list[Detected]],
) -> None:
    wanted, found = whole
    boxes_only = [replace(each, masks=None, keypoints=None) for each in found]
    assert set(mean_ap(wanted, boxes_only, CLASSES)) <= set(NAMES)
    unlabelled = [replace(each, outlines=None, keypoints=None) for each in wanted]
    assert set(mean_ap(unlabelled, found, CLASSES)) <= set(NAMES)
    fewer = [replace(each, keypoints=each.keypoints[:, :3]) for each in found if each.keypoints is not None]
    assert not any(name.startswith("keypoint") for name in mean_ap(wanted, fewer, CLASSES))


def test_an_outline_that_is_none_is_named(whole: tuple[list[Boxes], list[Detected]]) -> None:
    wanted, found = whole
    broken = replace(wanted[0], outlines=([[1.0, 2.0]],) * len(wanted[0]))
    with pytest.raises(BbxError, match=r"an outline .* has a polygon that is no list of three corners"):
        mean_ap([broken], found[:1], CLASSES)


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
