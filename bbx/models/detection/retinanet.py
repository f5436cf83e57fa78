"""RetinaNet (Lin et al., 2017), both of torchvision's versions, as one static-shaped program."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from bbx.models.detection.anchors import feature_maps
from bbx.models.detection.boxes import decode
from bbx.models.detection.dense import DenseDetector, over_levels
from bbx.models.detection.options import DetectionOptions


class RetinaNet(DenseDetector):
    """The inference path of `torchvision.models.detection.RetinaNet`.

    As there, each level gives its `topk_candidates` best pairs of anchor and class; `how.candidates` bounds
    what all levels together send into suppression, and `saturated` says when that cut something off.
    """

    def __init__(self, network: Any, how: DetectionOptions, size: tuple[int, int]) -> None:
        super().__init__(network, how, size)
        self.decode = partial(decode, weights=network.box_coder.weights)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """What `outputs` names, for normalised images float32 [B, 3, H, W]."""
        maps = feature_maps(self.backbone, images)
        logits = [self.head.classification_head([level]) for level in maps]
        pairs = over_levels(logits, self.preselected)
        # Only what was picked passes the sigmoid: it does not change the order of the logits.
        scored = pairs._replace(scores=pairs.scores.float().sigmoid())
        return self.detect(scored, self.head.regression_head(maps), self.decode)
