"""Inception-ResNet v2.

Szegedy, Ioffe, Vanhoucke, Alemi: Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning. AAAI 2017.

Keys are those of timm's network, whose published weights are the paper's authors'. They belong to the
authors' later code, from which the paper's figures differ: a stem like that of Inception v3, average pooling
in the first module, and the numbers of channels below.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bbx.models.classic.layers import ConvNorm, along_columns, along_rows

_35, _17, _8 = 320, 1088, 2080
"""Channels at each size of the maps."""


class Mixed5b(nn.Module):
    """At 35 × 35: the one module without a shortcut, from 192 channels to 320."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = ConvNorm(192, 96, 1)
        self.branch1 = nn.Sequential(ConvNorm(192, 48, 1), ConvNorm(48, 64, 5, padding=2))
        self.branch2 = nn.Sequential(
            ConvNorm(192, 64, 1), ConvNorm(64, 96, 3, padding=1), ConvNorm(96, 96, 3, padding=1)
        )
        self.branch3 = nn.Sequential(
            nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), ConvNorm(192, 64, 1)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, 192, height, width] to [batch, 320, height, width]."""
        branches = [self.branch0(maps), self.branch1(maps), self.branch2(maps), self.branch3(maps)]
        return torch.cat(branches, dim=1)


class Residual(nn.Module):
    """Branches side by side, a 1 × 1 convolution without activation, scaled, and the shortcut (section 3.3).

    Args:
        branches: each takes `channels`; together they give `width`.
        scale: of what is added to the shortcut, so that training does not run away.
        last: no ReLU after the sum.
    """

    def __init__(
        self, branches: list[nn.Module], width: int, channels: int, scale: float, *, last: bool = False
    ) -> None:
        super().__init__()
        self.names = [f"branch{index}" for index in range(len(branches))]
        for name, branch in zip(self.names, branches, strict=True):
            self.add_module(name, branch)
        self.conv2d = nn.Conv2d(width, channels, 1)
        self.scale = scale
        self.act = nn.Identity() if last else nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to the same shape."""
        found = torch.cat([self.get_submodule(name)(maps) for name in self.names], dim=1)
        joined: Tensor = self.act(self.conv2d(found) * self.scale + maps)
        return joined


def block35() -> Residual:
    """At 35 × 35 (figure 16)."""
    return Residual(
        [
            ConvNorm(_35, 32, 1),
            nn.Sequential(ConvNorm(_35, 32, 1), ConvNorm(32, 32, 3, padding=1)),
            nn.Sequential(
                ConvNorm(_35, 32, 1), ConvNorm(32, 48, 3, padding=1), ConvNorm(48, 64, 3, padding=1)
            ),
        ],
        128,
        _35,
        scale=0.17,
    )


def block17() -> Residual:
    """At 17 × 17 (figure 17): a 7 × 7 convolution in two factors."""
    factorised = nn.Sequential(
        ConvNorm(_17, 128, 1),
        along_rows(128, 160, 7),
        along_columns(160, 192, 7),
    )
    return Residual([ConvNorm(_17, 192, 1), factorised], 384, _17, scale=0.1)


def block8(scale: float = 0.2, *, last: bool = False) -> Residual:
    """At 8 × 8 (figure 19): a 3 × 3 convolution in two factors."""
    factorised = nn.Sequential(
        ConvNorm(_8, 192, 1),
        along_rows(192, 224, 3),
        along_columns(224, 256, 3),
    )
    return Residual([ConvNorm(_8, 192, 1), factorised], 448, _8, scale, last=last)


class Reduction(nn.Module):
    """Strided branches beside a max-pooling (figures 7 and 18)."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.names = [f"branch{index}" for index in range(len(branches))]
        for name, branch in zip(self.names, branches, strict=True):
            self.add_module(name, branch)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to about half the height and width."""
        branches = [self.get_submodule(name)(maps) for name in self.names]
        return torch.cat([*branches, self.pool(maps)], dim=1)


def reduction_a() -> Reduction:
    """From 35 × 35 and 320 channels to 17 × 17 and 1,088."""
    return Reduction(
        ConvNorm(_35, 384, 3, stride=2),
        nn.Sequential(
            ConvNorm(_35, 256, 1), ConvNorm(256, 256, 3, padding=1), ConvNorm(256, 384, 3, stride=2)
        ),
    )


def reduction_b() -> Reduction:
    """From 17 × 17 and 1,088 channels to 8 × 8 and 2,080."""
    return Reduction(
        nn.Sequential(ConvNorm(_17, 256, 1), ConvNorm(256, 384, 3, stride=2)),
        nn.Sequential(ConvNorm(_17, 256, 1), ConvNorm(256, 288, 3, stride=2)),
        nn.Sequential(
            ConvNorm(_17, 256, 1), ConvNorm(256, 288, 3, padding=1), ConvNorm(288, 320, 3, stride=2)
        ),
    )


class InceptionResNetV2(nn.Module):
    """float [batch, 3, 299, 299] to [batch, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1a = ConvNorm(3, 32, 3, stride=2)
        self.conv2d_2a = ConvNorm(32, 32, 3)
        self.conv2d_2b = ConvNorm(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = ConvNorm(64, 80, 1)
        self.conv2d_4a = ConvNorm(80, 192, 3)
        self.maxpool_5a = nn.MaxPool2d(3, stride=2)
        self.mixed_5b = Mixed5b()
        self.repeat = nn.Sequential(*(block35() for _ in range(10)))
        self.mixed_6a = reduction_a()
        self.repeat_1 = nn.Sequential(*(block17() for _ in range(20)))
        self.mixed_7a = reduction_b()
        self.repeat_2 = nn.Sequential(*(block8() for _ in range(9)))
        self.block8 = block8(scale=1.0, last=True)
        self.conv2d_7b = ConvNorm(_8, 1536, 1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classif = nn.Linear(1536, 1000)

    def forward(self, images: Tensor) -> Tensor:
        """float [batch, 3, height, width] to logits [batch, 1000]."""
        maps = self.maxpool_3a(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(images))))
        maps = self.maxpool_5a(self.conv2d_4a(self.conv2d_3b(maps)))
        maps = self.mixed_6a(self.repeat(self.mixed_5b(maps)))
        maps = self.mixed_7a(self.repeat_1(maps))
        maps = self.conv2d_7b(self.block8(self.repeat_2(maps)))
        logits: Tensor = self.classif(self.dropout(self.avgpool(maps).flatten(1)))
        return logits
