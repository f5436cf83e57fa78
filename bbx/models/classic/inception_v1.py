"""Inception v1, which the paper calls GoogLeNet, as published: without batch norm, with 5 × 5 convolutions.

Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich: Going Deeper with Convolutions.
CVPR 2015.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bbx.models.classic.layers import LocalResponseNorm, conv_relu, draw_for_relu

_AUXILIARY_SIDE = 14
"""Side of the maps at the auxiliary classifiers when the image has the paper's 224 pixels."""


class Inception(nn.Module):
    """Four branches side by side (figure 2b); arguments in the order of table 1's columns.

    Args:
        channels: of the input.
        one: of the 1 × 1 branch.
        three: of the 1 × 1 reduction before the 3 × 3 convolution, and of that.
        five: likewise for 5 × 5.
        projection: of the 1 × 1 convolution after the max-pooling.
    """

    def __init__(
        self, channels: int, one: int, three: tuple[int, int], five: tuple[int, int], projection: int
    ) -> None:
        super().__init__()
        self.branch1x1 = conv_relu(channels, one, 1)
        self.branch3x3 = nn.Sequential(conv_relu(channels, three[0], 1), conv_relu(*three, 3, padding=1))
        self.branch5x5 = nn.Sequential(conv_relu(channels, five[0], 1), conv_relu(*five, 5, padding=2))
        self.branch_pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), conv_relu(channels, projection, 1)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to [batch, sum of the branches, height, width]."""
        return torch.cat(
            [self.branch1x1(maps), self.branch3x3(maps), self.branch5x5(maps), self.branch_pool(maps)], dim=1
        )


class AuxiliaryClassifier(nn.Module):
    """The paper's side branch (section 5): 5/3 average pooling, 1 × 1 convolution, two linear layers."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = conv_relu(channels, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(1024, num_classes)
        draw_for_relu(self)

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to logits [batch, num_classes]."""
        if maps.shape[2] == maps.shape[3] == _AUXILIARY_SIDE:
            pooled = functional.avg_pool2d(maps, 5, stride=3)
        else:  # an image of another size than the paper's
            pooled = functional.adaptive_avg_pool2d(maps, 4)
        hidden = functional.relu(self.fc1(self.conv(pooled).flatten(1)))
        logits: Tensor = self.fc2(self.dropout(hidden))
        return logits


class InceptionV1(nn.Module):
    """GoogLeNet; float [batch, 3, 224, 224] to [batch, 1000].

    The constants of its local response normalisation are not in the paper; these are AlexNet's.
    """

    auxiliary_weight = 0.3
    auxiliaries = ("aux1", "aux2")
    aux1: AuxiliaryClassifier | None
    aux2: AuxiliaryClassifier | None

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_relu(3, 64, 7, stride=2, padding=3)
        self.pool1 = _pool()
        self.norm1 = LocalResponseNorm()
        self.conv2_reduce = conv_relu(64, 64, 1)
        self.conv2 = conv_relu(64, 192, 3, padding=1)
        self.norm2 = LocalResponseNorm()
        self.pool2 = _pool()
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64)
        self.pool3 = _pool()
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128)
        self.pool4 = _pool()
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128)
        # In this place among the submodules, so that the last linear layer is always the classifier.
        for name in self.auxiliaries:
            self.register_module(name, None)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.4)
        self.fc = nn.Linear(1024, 1000)
        draw_for_relu(self)

    def add_auxiliaries(self, num_classes: int) -> None:
        """See `bbx.models.classic.auxiliary.HasAuxiliaries`."""
        self.aux1 = AuxiliaryClassifier(512, num_classes).train(self.training)
        self.aux2 = AuxiliaryClassifier(528, num_classes).train(self.training)

    def remove_auxiliaries(self) -> None:
        """See `bbx.models.classic.auxiliary.HasAuxiliaries`."""
        self.aux1 = self.aux2 = None

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """float [batch, 3, height, width] to logits [batch, 1000]; see `HasAuxiliaries` for training."""
        maps = self.norm1(self.pool1(self.conv1(images)))
        maps = self.pool2(self.norm2(self.conv2(self.conv2_reduce(maps))))
        maps = self.pool3(self.inception3b(self.inception3a(maps)))
        after_4a = self.inception4a(maps)
        after_4d = self.inception4d(self.inception4c(self.inception4b(after_4a)))
        maps = self.pool4(self.inception4e(after_4d))
        maps = self.inception5b(self.inception5a(maps))
        logits: Tensor = self.fc(self.dropout(self.avgpool(maps).flatten(1)))
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return logits, self.aux1(after_4a), self.aux2(after_4d)
        return logits


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)
