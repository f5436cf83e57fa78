"""FCOS (Tian et al., 2019) as torchvision has it, as one static-shaped program."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bbx.models.detection.anchors import feature_maps, fixed_anchors
from bbx.models.detection.candidates import Detections
from bbx.models.detection.dense import detect, over_levels
from bbx.models.detection.options import DetectionOptions


def decode_sides(distances: Tensor, anchors: Tensor) -> Tensor:
    """Boxes from the distances of their four sides to the centre of an anchor.

    Args:
        distances: float [..., N, 4] to the left, top, right and bottom side, in widths and heights of the
            anchor.
        anchors: float32 [..., N, 4].

    Returns:
        float32 [..., N, 4], not clipped.
    """
    sizes = anchors[..., 2:] - anchors[..., :2]
    centres = 0.5 * (anchors[..., :2] + anchors[..., 2:])
    sides = distances.float()
    return torch.cat([centres - sides[..., :2] * sizes, centres + sides[..., 2:] * sizes], dim=-1)


class FCOS(nn.Module):
    """The inference path of `torchvision.models.detection.FCOS` for images of one size.

    It owns the given network's parts under their own names, so torchvision's checkpoints load key for key.
    As there, each level gives its `topk_candidates` best pairs of location and class; `how.candidates` bounds
    what all levels together send into suppression, and `saturated` says when that cut something off.

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
        self.candidates_per_level: int = network.topk_candidates
        anchors = fixed_anchors(network.backbone, network.anchor_generator, size)
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The fields of `Detections` for normalised images float32 [B, 3, H, W]."""
        scores, distances = [], []
        for level in feature_maps(self.backbone, images):
            logits = self.head.classification_head([level])
            sides, centreness = self.head.regression_head([level])
            scores.append((logits.float().sigmoid() * centreness.float().sigmoid()).sqrt())
            distances.append(sides)
        pairs = over_levels(scores, self.candidates_per_level)
        return detect(pairs, torch.cat(distances, dim=1), self.anchors, decode_sides, self.how, self.size)
