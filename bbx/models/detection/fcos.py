"""FCOS (Tian et al., 2019) as torchvision has it, as one static-shaped program."""

from __future__ import annotations

import torch
from torch import Tensor

from bbx.models.detection.anchors import feature_maps
from bbx.models.detection.dense import DenseDetector, over_levels


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


class FCOS(DenseDetector):
    """The inference path of `torchvision.models.detection.FCOS`.

    As there, each level gives its `topk_candidates` best pairs of location and class; `how.candidates` bounds
    what all levels together send into suppression, and `saturated` says when that cut something off.
    """

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """What `outputs` names, for normalised images float32 [B, 3, H, W]."""
        scores, distances = [], []
        for level in feature_maps(self.backbone, images):
            logits = self.head.classification_head([level])
            sides, centreness = self.head.regression_head([level])
            scores.append((logits.float().sigmoid() * centreness.float().sigmoid()).sqrt())
            distances.append(sides)
        return self.detect(over_levels(scores, self.preselected), torch.cat(distances, dim=1), decode_sides)
