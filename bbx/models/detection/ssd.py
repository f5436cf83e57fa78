"""SSD (Liu et al., 2016) and SSDlite (Sandler et al., 2018) as torchvision has them, static-shaped."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bbx.models.detection.anchors import feature_maps, fixed_anchors
from bbx.models.detection.boxes import decode
from bbx.models.detection.candidates import Detections
from bbx.models.detection.dense import Pairs, detect
from bbx.models.detection.options import DetectionOptions


class SSD(nn.Module):
    """The inference path of `torchvision.models.detection.SSD` for images of one size.

    It owns the given network's parts under their own names, so torchvision's checkpoints load key for key.
    As there, each class gives its `topk_candidates` best default boxes. torchvision then suppresses all of
    them, up to 36,000; here the best `how.candidates` of all classes go on, and `saturated` says when that
    cut something off. Greedy suppression never looks at a lower score, so a saturated image is still
    torchvision's, box for box, when it fills all `how.detections` rows; otherwise only detections of a score
    below the last candidate's can be missing.

    Args:
        network: torchvision's; its `topk_candidates` is kept, its thresholds are replaced by `how`.
        size: height and width of the images.
    """

    outputs: ClassVar[tuple[str, ...]] = Detections._fields

    anchors: Tensor

    def __init__(self, network: Any, how: DetectionOptions, size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone: nn.Module = network.backbone
        self.head: nn.Module = network.head
        self.how = how
        self.size = size
        self.candidates_per_class: int = network.topk_candidates
        self.decode = partial(decode, weights=network.box_coder.weights)
        anchors = fixed_anchors(network.backbone, network.anchor_generator, size)
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The fields of `Detections` for normalised images float32 [B, 3, H, W]."""
        heads = self.head(feature_maps(self.backbone, images))
        pairs = best_of_each_class(heads["cls_logits"], self.candidates_per_class)
        return detect(pairs, heads["bbox_regression"], self.anchors, self.decode, self.how, self.size)


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
