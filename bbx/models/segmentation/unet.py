"""The U-Net's decoder on any backbone (Ronneberger et al., 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bbx.models.features import FeatureMaps
from bbx.models.segmentation.base import Segmenter, resized
from bbx.models.spec import FeatureMap

STRIDES = (2, 4, 8, 16, 32)
"""Of the maps that the decoder looks at, where the backbone has them."""

_CHANNELS_PER_STRIDE = 16
"""Width of the decoder at stride 1; it doubles with every halving of the map, as in the paper."""


class UNet(Segmenter):
    """A decoder that climbs from the coarsest map to the finest, joining the backbone's map at each stride.

    Two things differ from the paper: convolutions are padded, so that no border is lost, and maps grow by
    bilinear resizing, which takes any ratio of sizes and leaves no checkerboard.

    Args:
        maps: the backbone.
        levels: which of its maps to use, finest first.
    """

    def __init__(
        self,
        maps: FeatureMaps,
        levels: tuple[FeatureMap, ...],
        *,
        size: tuple[int, int],
        num_classes: int,
        argmax: bool,
    ) -> None:
        super().__init__(size, num_classes=num_classes, argmax=argmax)
        self.nodes = tuple(level.node for level in levels)
        self.backbone = maps
        self.decoder = nn.ModuleList()
        below = levels[-1].channels
        for level in reversed(levels[:-1]):
            width = _CHANNELS_PER_STRIDE * level.stride
            self.decoder.append(_double_convolution(below + level.channels, width))
            below = width
        self.classifier = nn.Conv2d(below, num_classes, kernel_size=1)

    def coarse_logits(self, images: Tensor) -> Tensor:
        """See `Segmenter.coarse_logits`."""
        found = self.backbone(images)
        *skips, decoded = (found[node] for node in self.nodes)
        for skip, block in zip(reversed(skips), self.decoder, strict=True):
            decoded = block(torch.cat([resized(decoded, skip.shape[-2:]), skip], dim=1))
        logits: Tensor = self.classifier(decoded)
        return logits


def _double_convolution(given: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (given, width):
        layers += [
            nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
