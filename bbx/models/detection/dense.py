"""What detectors without proposals share: from a score for every anchor and class to detections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bbx.models.detection.anchors import fixed_anchors
from bbx.models.detection.boxes import clip, take
from bbx.models.detection.candidates import Candidates, Detections, best, detections
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


class DenseDetector(nn.Module):
    """A detector without proposals, for images of one size; a subclass adds `forward`.

    It owns the given network's parts under their own names, so torchvision's checkpoints load key for key.

    Args:
        network: torchvision's RetinaNet, FCOS or SSD. Its `topk_candidates` is kept; its thresholds and its
            number of detections are replaced by `how`.
        size: height and width of the images.

    Attributes:
        outputs: names of what `forward` gives, in order.
        anchors: float32 [N, 4], in no state_dict.
        preselected: how many pairs of anchor and class each level (of SSD: each class) sends on at most.
    """

    outputs: ClassVar[tuple[str, ...]] = Detections._fields
    anchors: Tensor

    def __init__(self, network: Any, how: DetectionOptions, size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone: Any = network.backbone
        self.head: Any = network.head
        self.how = how
        self.size = size
        self.preselected: int = network.topk_candidates
        anchors = fixed_anchors(network.backbone, network.anchor_generator, size)
        self.register_buffer("anchors", anchors, persistent=False)
        self.train(network.training)

    def detect(
        self, pairs: Pairs, offsets: Tensor, decode: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, ...]:
        """The fields of `Detections`; boxes are decoded for the best `how.candidates` pairs only.

        Args:
            pairs: with true scores, in 0..1.
            offsets: float [B, N, 4], as the regression head gives them.
            decode: boxes float32 [B, K, 4] from offsets [B, K, 4] and anchors [B, K, 4].
        """
        how = self.how
        passed = torch.where(pairs.scores > how.score_threshold, pairs.scores, torch.zeros_like(pairs.scores))
        scores, index, saturated = best(passed, how.candidates)
        rows = take(pairs.anchors, index)
        boxes = clip(decode(take(offsets, rows), self.anchors[rows]), *self.size)
        candidates = Candidates(boxes, scores, take(pairs.labels, index), saturated)
        found, _ = detections(candidates, iou=how.iou_threshold, count=how.detections, lowering=how.lowering)
        return tuple(found)
