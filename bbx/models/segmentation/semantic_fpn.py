"""The semantic branch of panoptic feature pyramids (Kirillov et al., 2019, section 3.1)."""

from __future__ import annotations

from torch import Tensor, nn

from bbx.models.necks import PyramidBackbone
from bbx.models.segmentation.base import Segmenter, resized

_CHANNELS = 128
_GROUPS = 32


class SemanticFPN(Segmenter):
    """Every level of the pyramid brought to the finest one's size step by step, and summed.

    A step is a convolution, a group norm, a ReLU and a bilinear resize to the next finer level's size, which
    is twofold where the image size is a multiple of the coarsest stride.
    """

    def __init__(
        self, backbone: PyramidBackbone, *, size: tuple[int, int], num_classes: int, argmax: bool
    ) -> None:
        super().__init__(size, num_classes=num_classes, argmax=argmax)
        self.backbone = backbone
        self.branches = nn.ModuleList(
            _branch(backbone.out_channels, max(1, level)) for level in range(len(backbone.names))
        )
        self.classifier = nn.Conv2d(_CHANNELS, num_classes, kernel_size=1)

    def coarse_logits(self, images: Tensor) -> Tensor:
        """See `Segmenter.coarse_logits`."""
        maps = list(self.backbone(images).values())
        finest, *coarser = self.branches
        total = finest(maps[0])
        for level, branch in enumerate(coarser, start=1):
            climbed = maps[level]
            for step, target in zip(branch.children(), reversed(maps[:level]), strict=True):
                climbed = resized(step(climbed), target.shape[-2:])
            total = total + climbed
        logits: Tensor = self.classifier(total)
        return logits


def _branch(given: int, steps: int) -> nn.Sequential:
    return nn.Sequential(*(_step(_CHANNELS if index else given) for index in range(steps)))


def _step(given: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(given, _CHANNELS, kernel_size=3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, _CHANNELS),
        nn.ReLU(inplace=True),
    )
