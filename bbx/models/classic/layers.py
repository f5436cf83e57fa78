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

    `b[i] = a[i] / (k + alpha * sum(a[j]²)) ** beta`, where j runs over the `size` channels around i that
    exist. alpha multiplies the sum, as the paper has it; torch and Caffe multiply the mean, so their alpha is
    `size` times this one.

    The sum is written with slices and additions. torch's own function pools over five axes, which few
    runtimes take, and squares a before it multiplies by alpha, which leaves FP16's range when a passes 255;
    here √alpha · a is squared, and five neighbours may all reach 11,400.

    Args:
        size: number of channels in the sum, odd.
        alpha, beta, k: constants of the formula; the paper's.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, maps: Tensor) -> Tensor:
        """float [batch, channels, height, width] to the same shape."""
        channels, reach = maps.shape[1], self.size // 2
        squares = torch.square(maps * self.alpha**0.5)
        padded = functional.pad(squares, (0, 0, 0, 0, reach, reach))
        total = padded[:, :channels]
        for shift in range(1, self.size):
            total = total + padded[:, shift : shift + channels]
        return maps / torch.pow(self.k + total, self.beta)

    def extra_repr(self) -> str:
        """The constants, in `print(network)`."""
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def draw_for_relu(module: nn.Module) -> None:
    """Weights that keep the variance of a signal through ReLUs (He et al., 2015, section 2.2); biases zero.

    For networks whose own way of drawing them lets random weights carry no signal, or is not told.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
