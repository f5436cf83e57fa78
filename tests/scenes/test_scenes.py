"""Scenes are what their labels say, and the scores are right at their ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.scenes import compose
from tests.scenes.coco import mean_ap
from tests.scenes.compose import Scene, Split, coco_dataset, scenes
from tests.scenes.evaluate import mean_iou

SPLITS: tuple[Split, ...] = ("train", "test")


def _same(first: Scene, second: Scene) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in Scene.__slots__)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("size", [128, 320])
def test_boxes_are_tight_around_the_ink_that_the_mask_shows(split: Split, size: int) -> None:
    composed = scenes(20, 3, split, size)
    for scene in composed:
        assert scene.image.shape == (size, size, 3)
        assert scene.mask.shape == (size, size)
        assert len(scene.boxes) == len(scene.labels) >= 1
        left = scene.mask.copy()
        for (x1, y1, x2, y2), label in zip(scene.boxes.astype(int), scene.labels, strict=True):
            part = scene.mask[y1:y2, x1:x2] == label
            assert part.any(axis=1)[[0, -1]].all()
            assert part.any(axis=0)[[0, -1]].all()
            left[y1:y2, x1:x2][part] = 0
        assert not left.any()
    assert {int(label) for scene in composed for label in scene.labels} == set(range(1, 11))


def test_the_same_arguments_give_the_same_scenes_and_others_others() -> None:
    first = scenes(3, 0, "train", 128)
    assert all(map(_same, first, scenes(3, 0, "train", 128)))
    assert all(map(_same, first[:2], scenes(2, 0, "train", 128)))
    assert not _same(first[0], first[1])
    assert not _same(first[0], scenes(1, 1, "train", 128)[0])


def test_the_splits_share_no_digit_and_no_photograph() -> None:
    for part in (compose._digits, compose._photographs):
        seen, unseen = (
            {
                np.asarray(item).tobytes()
                for item in (part(split)[0] if part is compose._digits else part(split))
            }
            for split in SPLITS
        )
        assert seen
        assert unseen
        assert not seen & unseen


def _truth(composed: list[Scene]) -> list[dict[str, Any]]:
    return [
        {"boxes": scene.boxes, "scores": np.linspace(0.9, 0.8, len(scene.boxes)), "labels": scene.labels}
        for scene in composed
    ]


def test_map_is_one_for_the_truth_and_falls_with_what_is_wrong() -> None:
    composed = scenes(20, 5, "test", 128)
    dataset, truth = coco_dataset(composed), _truth(composed)
    assert mean_ap(dataset, truth) == {"mAP": pytest.approx(1.0), "mAP50": pytest.approx(1.0)}
    relabelled = [{**found, "labels": found["labels"] % 10 + 1} for found in truth]
    assert mean_ap(dataset, relabelled)["mAP50"] == pytest.approx(0.0)
    moved = [{**found, "boxes": found["boxes"] + np.float32(3)} for found in truth]
    score = mean_ap(dataset, moved)
    assert score["mAP50"] > 0.9
    assert score["mAP"] < 0.8
    halved = [{name: value[::2] for name, value in found.items()} for found in truth]
    assert 0.3 < mean_ap(dataset, halved)["mAP50"] < 0.9


def test_map_of_no_detection_is_zero() -> None:
    composed = scenes(2, 5, "test", 128)
    nothing = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, int)}
    assert mean_ap(coco_dataset(composed), [nothing, nothing]) == {"mAP": 0.0, "mAP50": 0.0}


def test_mean_iou_is_over_the_classes_that_occur() -> None:
    masks = np.array([[0, 0, 1, 1]])
    assert mean_iou(masks, masks) == 1.0
    assert mean_iou(masks, np.zeros((1, 4), int)) == pytest.approx((2 / 4 + 0) / 2)
    assert mean_iou(masks, np.array([[0, 0, 1, 2]])) == pytest.approx((1 + 1 / 2 + 0) / 3)
