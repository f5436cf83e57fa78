"""From scored boxes to the outputs that every detector shares: fixed shapes, padded, best first."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from bbx.models.detection.boxes import take
from bbx.models.detection.suppression import suppress

NO_LABEL = -1
"""Label of a row that holds no detection; its box and its score are zero."""


class Candidates(NamedTuple):
    """The best-scored boxes before suppression, sorted by falling score.

    Attributes:
        boxes: float32 [B, K, 4], pixels of the network's input.
        scores: float32 [B, K]; zero where there is no candidate.
        labels: int64 [B, K].
        saturated: bool [B], whether there were more candidates than K.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    saturated: Tensor


class Detections(NamedTuple):
    """What a detector gives. Rows beyond `num_detections` hold zeros and the label `NO_LABEL`.

    Attributes:
        boxes: float32 [B, D, 4] as x1, y1, x2, y2 in pixels of the network's input.
        scores: float32 [B, D], falling.
        labels: int64 [B, D], in the checkpoint's own numbering.
        num_detections: int64 [B].
        saturated: bool [B], whether a limit was reached: more candidates than could enter suppression, or a
            chain of suppressions longer than `suppression.PASSES`, which may leave duplicates.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    num_detections: Tensor
    saturated: Tensor


def best(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` highest scores of each image, and where they stood.

    Args:
        scores: float32 [B, M]; one that did not pass its threshold is zero.

    Returns:
        Scores float32 [B, min(count, M)], falling; their index int64; and bool [B], whether more than
        `count` were positive.
    """
    kept = min(count, scores.shape[1])
    values, index = scores.topk(kept, dim=1)
    dropped = (scores > 0).sum(dim=1) > kept
    return values, index, dropped


def detections(candidates: Candidates, *, iou: float, count: int, lowering: str) -> tuple[Detections, Tensor]:
    """Suppress candidates class by class and keep the best `count`.

    Returns:
        The detections, and int64 [B, count]: which candidate each row is (0 in padding).
    """
    boxes, scores, labels, saturated = candidates
    keep, settled = suppress(boxes, scores, labels, iou, lowering)
    kept = min(count, scores.shape[1])
    final, index = torch.where(keep, scores, torch.zeros_like(scores)).topk(kept, dim=1)
    found = final > 0
    final_boxes = take(boxes, index) * found[..., None]
    final_labels = torch.where(found, take(labels, index), torch.full_like(index, NO_LABEL))
    index = index * found
    if kept < count:
        missing = count - kept
        final, index = functional.pad(final, (0, missing)), functional.pad(index, (0, missing))
        final_boxes = functional.pad(final_boxes, (0, 0, 0, missing))
        final_labels = functional.pad(final_labels, (0, missing), value=NO_LABEL)
    return Detections(final_boxes, final, final_labels, found.sum(dim=1), saturated | ~settled), index
