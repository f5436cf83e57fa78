"""RetinaNet (Lin et al., 2017), both of torchvision's versions, as one static-shaped program."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from bbx.models.detection.anchors import feature_maps, fixed_anchors
from bbx.models.detection.boxes import decode
from bbx.models.detection.candidates import Detections
from bbx.models.detection.dense import detect, over_levels
from bbx.models.detection.options import DetectionOptions


class RetinaNet(nn.Module):
    """The inference path of `torchvision.models.detection.RetinaNet` for images of one size.

    It owns the given network's parts under their own names, so torchvision's checkpoints load key for key.
    As there, each level gives its `topk_candidates` best pairs of anchor and class; `how.candidates` bounds
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
        self.decode = partial(decode, weights=network.box_coder.weights)
        anchors = fixed_anchors(network.backbone, network.anchor_generator, size)
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The fields of `Detections` for normalised images float32 [B, 3, H, W]."""
        maps = feature_maps(self.backbone, images)
        logits = [self.head.classification_head([level]) for level in maps]
        pairs = over_levels(logits, self.candidates_per_level)
        # Of the logits only those that were picked pass the sigmoid: it does not change their order.
        scored = pairs._replace(scores=pairs.scores.sigmoid())
        return detect(scored, self.head.regression_head(maps), self.anchors, self.decode, self.how, self.size)
