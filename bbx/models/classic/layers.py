"""Layers that several of the classic networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Size = int | tuple[int, int]


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU: the unit of every Inception from the second on."""

    def __init__(
        self, channels: int, out_channels: int, kernel: Size, *, stride: int = 1, padding: Size = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to [batch, out_channels, …]."""
        return functional.relu(self.bn(self.conv(maps)), inplace=True)


def along_rows(channels: int, out_channels: int, length: int) -> ConvNorm:
    """The 1 × `length` factor of a square convolution, padded to keep the size."""
    return ConvNorm(channels, out_channels, (1, length), padding=(0, length // 2))


def along_columns(channels: int, out_channels: int, length: int) -> ConvNorm:
    """The `length` × 1 factor of a square convolution, padded to keep the size."""
    return ConvNorm(channels, out_channels, (length, 1), padding=(length // 2, 0))


def conv_relu(
    channels: int, out_channels: int, kernel: int, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> nn.Sequential:
    """Convolution with bias, then ReLU."""
    convolution = nn.Conv2d(channels, out_channels, kernel, stride, padding, groups=groups)
    return nn.Sequential(convolution, nn.ReLU(inplace=True))


class LocalResponseNorm(nn.Module):
    """Local response normalisation across channels (Krizhevsky et al., 2012, section 3.3).

    `b[i] = a[i] / (k + alpha * sum(a[j]²)) ** beta`, where j runs over the n channels around i that exist,
    and k = 2, n = 5, alpha = 1e-4, beta = 0.75. alpha multiplies the sum, as the paper has it; torch and
    Caffe multiply the mean, so their alpha is n times this one.

    The sum is written with slices and additions. torch's own function pools over five axes, which few
    runtimes take, and squares a before it multiplies by alpha, which leaves FP16's range when a passes 255;
    here √alpha · a is squared, and five neighbours may all reach 11,400. The power is two square roots, which
    take half the time of `Pow` on a CPU and lose nothing in FP16.
    """

    K, ALPHA, REACH = 2.0, 1e-4, 2

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to the same shape."""
        channels = maps.shape[1]
        squares = torch.square(maps * self.ALPHA**0.5)
        padded = functional.pad(squares, (0, 0, 0, 0, self.REACH, self.REACH))
        total = padded[:, :channels]
        for shift in range(1, 2 * self.REACH + 1):
            total = total + padded[:, shift : shift + channels]
        root = torch.sqrt(self.K + total)
        return maps / (root * torch.sqrt(root))


def draw_for_relu(module: nn.Module) -> None:
    """Weights that keep the variance of a signal through ReLUs (He et al., 2015, section 2.2); biases zero.

    For networks whose own way of drawing them lets random weights carry no signal, or is not told.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
