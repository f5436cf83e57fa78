"""Inception v2: batch norm after every convolution, and 5 × 5 convolutions as two of 3 × 3.

Ioffe, Szegedy: Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift.
ICML 2015; the network is figure 5 of its appendix, often called BN-Inception. (The network of table 1 in
"Rethinking the Inception Architecture" also goes by the name of Inception-v2; it is on the way to
`inception_v3`.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bbx.models.classic.layers import ConvNorm, draw_for_relu


class SeparableConvNorm(nn.Module):
    """A depthwise convolution with eight maps for each channel, then 1 × 1 across them, batch norm, ReLU."""

    def __init__(self, channels: int, out_channels: int, kernel: int, *, stride: int) -> None:
        super().__init__()
        each = channels * 8
        self.depthwise = nn.Conv2d(
            channels, each, kernel, stride, padding=kernel // 2, groups=channels, bias=False
        )
        self.pointwise = ConvNorm(each, out_channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to [batch, out_channels, height / stride, …]."""
        given: Tensor = self.pointwise(self.depthwise(maps))
        return given


class Inception(nn.Module):
    """Four branches side by side; arguments in the order of the columns of figure 5.

    Args:
        channels: of the input.
        one: of the 1 × 1 branch.
        three: of the 1 × 1 reduction before the 3 × 3 convolution, and of that.
        double: likewise for the branch of two 3 × 3 convolutions.
        projection: of the 1 × 1 convolution after the pooling.
        max_pooled: whether that is the pooling, and not the average.
    """

    def __init__(
        self,
        channels: int,
        one: int,
        three: tuple[int, int],
        double: tuple[int, int],
        projection: int,
        *,
        max_pooled: bool = False,
    ) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(channels, one, 1)
        self.branch3x3 = nn.Sequential(
            ConvNorm(channels, three[0], 1),
            ConvNorm(*three, 3, padding=1),
        )
        self.branch3x3_double = nn.Sequential(
            ConvNorm(channels, double[0], 1),
            ConvNorm(*double, 3, padding=1),
            ConvNorm(double[1], double[1], 3, padding=1),
        )
        pool = _max_pool(stride=1) if max_pooled else nn.AvgPool2d(3, stride=1, padding=1)
        self.branch_pool = nn.Sequential(pool, ConvNorm(channels, projection, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to [batch, sum of the branches, height, width]."""
        return torch.cat(
            [self.branch1x1(maps), self.branch3x3(maps), self.branch3x3_double(maps), self.branch_pool(maps)],
            dim=1,
        )


class Reduction(nn.Module):
    """An Inception module with stride 2: no 1 × 1 branch, and the max-pooled input is passed through.

    Args: as `Inception`'s.
    """

    def __init__(self, channels: int, three: tuple[int, int], double: tuple[int, int]) -> None:
        super().__init__()
        self.branch3x3 = nn.Sequential(
            ConvNorm(channels, three[0], 1),
            ConvNorm(*three, 3, stride=2, padding=1),
        )
        self.branch3x3_double = nn.Sequential(
            ConvNorm(channels, double[0], 1),
            ConvNorm(*double, 3, padding=1),
            ConvNorm(double[1], double[1], 3, stride=2, padding=1),
        )
        self.branch_pool = _max_pool(stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to half the size; the input's channels come last."""
        return torch.cat([self.branch3x3(maps), self.branch3x3_double(maps), self.branch_pool(maps)], dim=1)


class InceptionV2(nn.Module):
    """BN-Inception; float [batch, 3, 224, 224] to [batch, 1000].

    4c and 4d give 608 channels, the sum of their branches in figure 5, whose column of output sizes says 576.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = SeparableConvNorm(3, 64, 7, stride=2)
        self.pool1 = _max_pool(stride=2)
        self.conv2_reduce = ConvNorm(64, 64, 1)
        self.conv2 = ConvNorm(64, 192, 3, padding=1)
        self.pool2 = _max_pool(stride=2)
        self.inception3a = Inception(192, 64, (64, 64), (64, 96), 32)
        self.inception3b = Inception(256, 64, (64, 96), (64, 96), 64)
        self.inception3c = Reduction(320, (128, 160), (64, 96))
        self.inception4a = Inception(576, 224, (64, 96), (96, 128), 128)
        self.inception4b = Inception(576, 192, (96, 128), (96, 128), 128)
        self.inception4c = Inception(576, 160, (128, 160), (128, 160), 128)
        self.inception4d = Inception(608, 96, (128, 192), (160, 192), 128)
        self.inception4e = Reduction(608, (128, 192), (192, 256))
        self.inception5a = Inception(1056, 352, (192, 320), (160, 224), 128)
        self.inception5b = Inception(1024, 352, (192, 320), (192, 224), 128, max_pooled=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(1024, 1000)
        draw_for_relu(self)

    def forward(self, images: Tensor) -> Tensor:
        """float [batch, 3, height, width] to logits [batch, 1000]."""
        maps = self.pool1(self.conv1(images))
        maps = self.pool2(self.conv2(self.conv2_reduce(maps)))
        maps = self.inception3c(self.inception3b(self.inception3a(maps)))
        maps = self.inception4d(self.inception4c(self.inception4b(self.inception4a(maps))))
        maps = self.inception5b(self.inception5a(self.inception4e(maps)))
        logits: Tensor = self.fc(self.avgpool(maps).flatten(1))
        return logits


def _max_pool(*, stride: int) -> nn.MaxPool2d:
    """Padded as the convolutions beside it are, so that its maps are as large as theirs at every size."""
    return nn.MaxPool2d(3, stride=stride, padding=1)
