"""SSD (Liu et al., 2016) and SSDlite (Sandler et al., 2018) as torchvision has them, static-shaped."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bbx.models.detection.anchors import feature_maps
from bbx.models.detection.boxes import decode
from bbx.models.detection.dense import DenseDetector, Pairs
from bbx.models.detection.options import DetectionOptions


class SSD(DenseDetector):
    """The inference path of `torchvision.models.detection.SSD`.

    As there, each class gives its `topk_candidates` best default boxes. torchvision suppresses among all of
    those, up to 36,000; here the best `how.candidates` go on, and `saturated` says when that cut something
    off. Greedy suppression never looks at a lower score, so a saturated image still has torchvision's
    detections, one for one, when all `how.detections` rows are filled; otherwise it can lack some that score
    below the last candidate, and only those.
    """

    def __init__(self, network: Any, how: DetectionOptions, size: tuple[int, int]) -> None:
        super().__init__(network, how, size)
        self.decode = partial(decode, weights=network.box_coder.weights)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """What `outputs` names, for normalised images float32 [B, 3, H, W]."""
        heads = self.head(feature_maps(self.backbone, images))
        pairs = best_of_each_class(heads["cls_logits"], self.preselected)
        return self.detect(pairs, heads["bbox_regression"], self.decode)


def best_of_each_class(logits: Tensor, count: int) -> Pairs:
    """The `count` most probable boxes of every class but the background.

    Args:
        logits: float [B, N, C]; class 0 is the background.

    Returns:
        (C - 1) × min(count, N) pairs, class by class; labels are 1 … C-1.
    """
    probabilities = logits.float().softmax(dim=2).transpose(1, 2)[:, 1:]
    scores, rows = probabilities.topk(min(count, logits.shape[1]), dim=2)
    labels = torch.arange(1, logits.shape[2], device=logits.device)[None, :, None].expand_as(rows)
    return Pairs(scores.flatten(1), rows.flatten(1), labels.flatten(1))
