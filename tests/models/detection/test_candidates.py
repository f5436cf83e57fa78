"""What every detector ends with: fixed shapes, best first, padded, and word of what was dropped."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bbx.models.detection.candidates import NO_LABEL, Candidates, best, detections
from bbx.models.detection.suppression import PASSES

LOWERINGS = ("static", "onnx")


def _candidates(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Candidates:
    return Candidates(
        torch.tensor([boxes]), torch.tensor([scores]), torch.tensor([labels]), torch.tensor([False])
    )


def _apart(count: int) -> list[list[float]]:
    return [[20.0 * index, 0.0, 20.0 * index + 10, 10.0] for index in range(count)]


@pytest.mark.parametrize(("count", "dropped"), [(2, True), (3, False), (9, False)])
def test_the_best_scores_and_whether_any_was_dropped(count: int, dropped: bool) -> None:
    scores = torch.tensor([[0.0, 0.5, 0.0, 0.9, 0.7]])
    values, index, saturated = best(scores, count)
    assert values.tolist()[0][:2] == pytest.approx([0.9, 0.7])
    assert index.tolist()[0][:2] == [3, 4]
    assert values.shape == (1, min(count, 5))
    assert saturated.tolist() == [dropped]


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("count", [2, 4, 7])
def test_rows_are_best_first_and_padded(lowering: str, count: int) -> None:
    boxes = [[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10], [0, 0, 0, 0]]
    given = _candidates(boxes, [0.9, 0.8, 0.7, 0.0], [3, 3, 5, 1])
    found, index = detections(given, iou=0.5, count=count, lowering=lowering)
    padding = count - 2
    assert found.num_detections.tolist() == [2]
    assert found.scores[0].tolist() == pytest.approx([0.9, 0.7] + [0.0] * padding)
    assert found.labels[0].tolist() == [3, 5] + [NO_LABEL] * padding
    assert found.boxes[0].tolist() == [boxes[0], boxes[2]] + [[0.0] * 4] * padding
    assert index[0].tolist() == [0, 2] + [0] * padding


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_boxes_of_different_labels_do_not_suppress_each_other(lowering: str) -> None:
    given = _candidates([[0.0, 0, 10, 10]] * 3, [0.9, 0.8, 0.7], [1, 2, 1])
    found, _ = detections(given, iou=0.5, count=3, lowering=lowering)
    assert found.labels[0].tolist() == [1, 2, NO_LABEL]


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_more_survivors_than_rows_are_cut_without_being_saturated(lowering: str) -> None:
    given = _candidates(_apart(5), [0.9, 0.8, 0.7, 0.6, 0.5], [1] * 5)
    found, _ = detections(given, iou=0.5, count=3, lowering=lowering)
    assert found.num_detections.tolist() == [3]
    assert found.scores[0].tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert found.saturated.tolist() == [False]


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_no_candidate_at_all_is_a_well_formed_answer(lowering: str) -> None:
    given = _candidates(_apart(4), [0.0] * 4, [1] * 4)
    found, _ = detections(given, iou=0.5, count=3, lowering=lowering)
    assert found.num_detections.tolist() == [0]
    assert not found.boxes.any()
    assert (found.labels == NO_LABEL).all()


def test_a_chain_that_was_not_resolved_sets_saturated() -> None:
    count = 3 * PASSES
    left = 25.0 * torch.arange(count)
    boxes = torch.stack([left, torch.zeros(count), left + 100, torch.full((count,), 50.0)], dim=1)
    scores = torch.linspace(1, 0.1, count)

    def saturated(length: int) -> Tensor:
        zeros = torch.where(torch.arange(count) < length, scores, torch.zeros(count))
        given = Candidates(boxes[None], zeros[None], torch.ones(1, count).long(), torch.tensor([False]))
        return detections(given, iou=0.5, count=count, lowering="static")[0].saturated

    assert saturated(count).tolist() == [True]
    assert saturated(PASSES // 2).tolist() == [False]
