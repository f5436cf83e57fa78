"""ResNet in the form of its authors' Caffe networks, and with group norm.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition. CVPR 2016.
Wu, He: Group Normalization. ECCV 2018.

Keys are those of torchvision's ResNets, whose checkpoints load. They are not the same function: from the
50-layer network on, weights that were trained with the stride elsewhere must be trained further.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn

_PLANS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of each stage (table 1). 34 and 50 layers share a plan: of basic blocks, and of bottlenecks."""
_FEWEST_WITH_BOTTLENECKS = 50
_GROUPS = 32
"""Groups of each group norm (Wu and He, section 4.1)."""

Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut (figure 5, left); the first has the stride."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, norm: Norm, *, caffe: bool) -> None:
        super().__init__()
        del caffe  # the forms differ in the bottleneck only
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width, stride, norm)

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to [batch, width, height / stride, width / stride]."""
        branch = self.relu(self.bn1(self.conv1(maps)))
        branch = self.bn2(self.conv2(branch))
        joined: Tensor = self.relu(branch + (maps if self.downsample is None else self.downsample(maps)))
        return joined


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 and 1 × 1 convolutions and a shortcut (figure 5, right).

    Args:
        width: of the 3 × 3 convolution; the block gives four times as many channels.
        caffe: the stride is on the first 1 × 1 convolution, and not on the 3 × 3.
    """

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, norm: Norm, *, caffe: bool) -> None:
        super().__init__()
        on_reduction, on_spatial = (stride, 1) if caffe else (1, stride)
        self.conv1 = nn.Conv2d(channels, width, 1, on_reduction, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, on_spatial, padding=1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = norm(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width * self.expansion, stride, norm)

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to [batch, 4 * width, height / stride, width / stride]."""
        branch = self.relu(self.bn1(self.conv1(maps)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        joined: Tensor = self.relu(branch + (maps if self.downsample is None else self.downsample(maps)))
        return joined


def _shortcut(channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Sequential | None:
    """A projection where shapes change (option B of the paper), else none."""
    if stride == 1 and channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(channels, out_channels, 1, stride, bias=False), norm(out_channels))


class ResNet(nn.Module):
    """Residual network; float [batch, 3, 224, 224] to [batch, 1000].

    Args:
        depth: 18, 34, 50, 101 or 152 layers with weights.
        caffe: stride on the first 1 × 1 convolution of a bottleneck, and 3/2 max-pooling without padding that
            rounds up; else the stride is on the 3 × 3 and the pooling is padded, as in torchvision.
        norm: `batch`, or `group` for 32 groups.
    """

    def __init__(self, depth: int, *, caffe: bool, norm: Literal["batch", "group"] = "batch") -> None:
        super().__init__()
        make_norm: Norm = partial(nn.GroupNorm, _GROUPS) if norm == "group" else nn.BatchNorm2d
        block = Bottleneck if depth >= _FEWEST_WITH_BOTTLENECKS else BasicBlock
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=0 if caffe else 1, ceil_mode=caffe)
        stages, channels = [], 64
        for stage, blocks in enumerate(_PLANS[depth]):
            width, stride = 64 << stage, 1 if stage == 0 else 2
            layers = []
            for index in range(blocks):
                layers.append(block(channels, width, stride if index == 0 else 1, make_norm, caffe=caffe))
                channels = width * block.expansion
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, 1000)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """float [batch, 3, height, width] to logits [batch, 1000]."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        logits: Tensor = self.fc(self.avgpool(maps).flatten(1))
        return logits
