"""Inception v3.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: Rethinking the Inception Architecture for Computer Vision.
CVPR 2016.

Keys are those of torchvision's network, whose published weights are the paper's authors'. They expect images
from -1 to 1: the preset's preprocessing gives these, where torchvision converts them inside the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bbx.models.classic.layers import ConvNorm, along_columns, along_rows


class InceptionA(nn.Module):
    """At 35 × 35: 5 × 5 convolutions as two of 3 × 3 (figure 5); one of 5 × 5 is left in the network.

    Args:
        channels: of the input.
        projection: of the 1 × 1 convolution after the average pooling.
    """

    def __init__(self, channels: int, projection: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(channels, 64, 1)
        self.branch5x5_1 = ConvNorm(channels, 48, 1)
        self.branch5x5_2 = ConvNorm(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNorm(channels, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, padding=1)
        self.branch_pool = ConvNorm(channels, projection, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to [batch, 224 + projection, height, width]."""
        branches = [
            self.branch1x1(maps),
            self.branch5x5_2(self.branch5x5_1(maps)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(maps))),
            self.branch_pool(_averaged(maps)),
        ]
        return torch.cat(branches, dim=1)


class InceptionB(nn.Module):
    """From 35 × 35 to 17 × 17: two strided branches beside a pooling (figure 10)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNorm(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvNorm(channels, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to [batch, 480 + channels, height / 2, width / 2]."""
        branches = [
            self.branch3x3(maps),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(maps))),
            functional.max_pool2d(maps, 3, stride=2),
        ]
        return torch.cat(branches, dim=1)


class InceptionC(nn.Module):
    """At 17 × 17: 7 × 7 convolutions as 1 × 7 after 7 × 1 (figure 6).

    Args:
        channels: of the input.
        width: between the factors.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(channels, 192, 1)
        self.branch7x7_1 = ConvNorm(channels, width, 1)
        self.branch7x7_2 = along_rows(width, width, 7)
        self.branch7x7_3 = along_columns(width, 192, 7)
        self.branch7x7dbl_1 = ConvNorm(channels, width, 1)
        self.branch7x7dbl_2 = along_columns(width, width, 7)
        self.branch7x7dbl_3 = along_rows(width, width, 7)
        self.branch7x7dbl_4 = along_columns(width, width, 7)
        self.branch7x7dbl_5 = along_rows(width, 192, 7)
        self.branch_pool = ConvNorm(channels, 192, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to [batch, 768, height, width]."""
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(maps)))
        branches = [
            self.branch1x1(maps),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(maps))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(twice)),
            self.branch_pool(_averaged(maps)),
        ]
        return torch.cat(branches, dim=1)


class InceptionD(nn.Module):
    """From 17 × 17 to 8 × 8: as `InceptionB`, with a factorised 7 × 7 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvNorm(channels, 192, 1)
        self.branch3x3_2 = ConvNorm(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvNorm(channels, 192, 1)
        self.branch7x7x3_2 = along_rows(192, 192, 7)
        self.branch7x7x3_3 = along_columns(192, 192, 7)
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to [batch, 512 + channels, height / 2, width / 2]."""
        factorised = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(maps)))
        branches = [
            self.branch3x3_2(self.branch3x3_1(maps)),
            self.branch7x7x3_4(factorised),
            functional.max_pool2d(maps, 3, stride=2),
        ]
        return torch.cat(branches, dim=1)


class InceptionE(nn.Module):
    """At 8 × 8: 1 × 3 and 3 × 1 convolutions side by side, for many channels (figure 7)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(channels, 320, 1)
        self.branch3x3_1 = ConvNorm(channels, 384, 1)
        self.branch3x3_2a = along_rows(384, 384, 3)
        self.branch3x3_2b = along_columns(384, 384, 3)
        self.branch3x3dbl_1 = ConvNorm(channels, 448, 1)
        self.branch3x3dbl_2 = ConvNorm(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = along_rows(384, 384, 3)
        self.branch3x3dbl_3b = along_columns(384, 384, 3)
        self.branch_pool = ConvNorm(channels, 192, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to [batch, 2048, height, width]."""
        once = self.branch3x3_1(maps)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(maps))
        branches = [
            self.branch1x1(maps),
            self.branch3x3_2a(once),
            self.branch3x3_2b(once),
            self.branch3x3dbl_3a(twice),
            self.branch3x3dbl_3b(twice),
            self.branch_pool(_averaged(maps)),
        ]
        return torch.cat(branches, dim=1)


class AuxiliaryClassifier(nn.Module):
    """The side branch at the last 17 × 17 maps (figure 8), with batch norm."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv0 = ConvNorm(channels, 128, 1)
        self.conv1 = ConvNorm(128, 768, 5)
        self.fc = nn.Linear(768, num_classes)
        _draw(self)
        nn.init.trunc_normal_(self.conv1.conv.weight, std=0.01)
        nn.init.trunc_normal_(self.fc.weight, std=0.001)

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width], from 17 positions a side, to logits [batch, num_classes].

        The maps of an image under 299 pixels are smaller; they are pooled to the 5 × 5 that conv1 needs.
        """
        if min(maps.shape[2:]) >= 17:
            pooled = functional.avg_pool2d(maps, 5, stride=3)
        else:
            pooled = functional.adaptive_avg_pool2d(maps, 5)
        maps = functional.adaptive_avg_pool2d(self.conv1(self.conv0(pooled)), 1)
        logits: Tensor = self.fc(maps.flatten(1))
        return logits


class InceptionV3(nn.Module):
    """float [batch, 3, 299, 299] to [batch, 1000]."""

    # The paper has no figure; 0.3 is that of Inception v1, whose authors are these.
    auxiliary_weight = 0.3
    auxiliaries = ("AuxLogits",)
    AuxLogits: AuxiliaryClassifier | None

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, stride=2)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        # In this place among the submodules, so that the last linear layer is always the classifier.
        self.register_module("AuxLogits", None)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(2048, 1000)
        _draw(self)

    def add_auxiliaries(self, num_classes: int) -> None:
        """See `bbx.models.classic.auxiliary.HasAuxiliaries`."""
        self.AuxLogits = AuxiliaryClassifier(768, num_classes).train(self.training)

    def remove_auxiliaries(self) -> None:
        """See `bbx.models.classic.auxiliary.HasAuxiliaries`."""
        self.AuxLogits = None

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """float [batch, 3, height, width] to logits [batch, 1000]; see `HasAuxiliaries` for training."""
        maps = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        maps = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(maps)))
        maps = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(maps))))
        maps = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(maps)))
        after_6e = self.Mixed_6e(self.Mixed_6d(maps))
        maps = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(after_6e)))
        logits: Tensor = self.fc(self.dropout(self.avgpool(maps).flatten(1)))
        if self.training and self.AuxLogits is not None:
            return logits, self.AuxLogits(after_6e)
        return logits


def _averaged(maps: Tensor) -> Tensor:
    return functional.avg_pool2d(maps, 3, stride=1, padding=1)


def _draw(module: nn.Module) -> None:
    """Truncated normal weights of the authors' own code."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.1)
