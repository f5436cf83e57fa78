"""What detectors without proposals share: from a score for every anchor and class to detections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bbx.models.detection.boxes import clip, take
from bbx.models.detection.candidates import Candidates, best, detections
from bbx.models.detection.options import DetectionOptions


class Pairs(NamedTuple):
    """Some pairs of an anchor and a class, each with a score.

    Attributes:
        scores: float32 [B, M].
        anchors: int64 [B, M], the anchor's number.
        labels: int64 [B, M].
    """

    scores: Tensor
    anchors: Tensor
    labels: Tensor


def strongest(scores: Tensor, count: int) -> Pairs:
    """The `count` highest of all scores of a level, exactly, without sorting all of them.

    A pair among the best `count` stands on an anchor whose own best score is among the best `count` anchors:
    so anchors are ranked first, by one reduction, and pairs only on those.

    Args:
        scores: float32 [B, N, C]; anything that grows with the score, such as its logit, will do.

    Returns:
        min(count, N × C) pairs, by falling score; labels are the positions 0 … C-1.
    """
    anchors, classes = scores.shape[1:]
    rows = scores.amax(dim=2).topk(min(count, anchors), dim=1).indices
    spread = rows[..., None].expand(-1, -1, classes)
    values, index = scores.gather(1, spread).flatten(1).topk(min(count, rows.shape[1] * classes), dim=1)
    return Pairs(values, spread.flatten(1).gather(1, index), index % classes)


def over_levels(levels: Sequence[Tensor], count: int) -> Pairs:
    """The `count` highest scores of each level, side by side; anchors are numbered through all levels.

    Args:
        levels: float32 [B, N_l, C] each.
    """
    found, first = [], 0
    for scores in levels:
        pairs = strongest(scores, count)
        found.append(pairs._replace(anchors=pairs.anchors + first))
        first += scores.shape[1]
    return Pairs(*(torch.cat(parts, dim=1) for parts in zip(*found, strict=True)))


def detect(
    pairs: Pairs,
    offsets: Tensor,
    anchors: Tensor,
    decode: Callable[[Tensor, Tensor], Tensor],
    how: DetectionOptions,
    size: tuple[int, int],
) -> tuple[Tensor, ...]:
    """The fields of `Detections` from scored pairs; boxes are decoded for the best `how.candidates` of them only.

    Args:
        pairs: with true scores, in 0..1.
        offsets: float [B, N, 4], as the regression head gives them.
        anchors: float32 [N, 4].
        decode: boxes float32 [B, K, 4] from offsets [B, K, 4] and anchors [B, K, 4].
        size: height and width to which boxes are clipped.
    """
    passed = torch.where(pairs.scores > how.score_threshold, pairs.scores, torch.zeros_like(pairs.scores))
    scores, index, saturated = best(passed, how.candidates)
    rows = take(pairs.anchors, index)
    boxes = clip(decode(take(offsets, rows), anchors[rows]), *size)
    candidates = Candidates(boxes, scores, take(pairs.labels, index), saturated)
    found, _ = detections(candidates, iou=how.iou_threshold, count=how.detections, lowering=how.lowering)
    return tuple(found)
