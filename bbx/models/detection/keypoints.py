"""Keypoints from heat maps, as torchvision finds them, in a graph of fixed shape.

torchvision's `heatmaps_to_keypoints` enlarges the heat maps of a box to the box's size in pixels, by a
bicubic kernel, and takes the highest pixel: a shape for every box. Here the same pixels of the same surface
are looked at in two steps of fixed shape: evenly spread ones over the whole box, then every one around the
best of them. In a box of up to `COARSE` pixels a side the first step looks at every pixel, and the result is
torchvision's. In a larger one it looks twice in every cell, and can prefer the lower of two peaks that differ
by less than a surface falls within a quarter of a cell from its top; the smoother the heat maps, the rarer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

COARSE = 112
"""Positions along an axis in the first step: two for each of the 56 cells of a heat map."""

_A = -0.75
"""Keys' constant of torch's bicubic interpolation."""


def locate(heat: Tensor, boxes: Tensor, largest: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The highest point of each heat map.

    Args:
        heat: float32 [N, K, S, S].
        boxes: float32 [N, 4], the part of the image that the heat maps cover.
        largest: height and width of the largest box, in pixels.

    Returns:
        float32 [N, K, 2]: x, y in pixels of the image. float32 [N, K]: the height.
    """
    heat = functional.pad(heat, (2, 2, 2, 2), mode="replicate")
    # A box that is smaller than a pixel counts as one.
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = sides.ceil()
    share = torch.arange(COARSE, dtype=torch.float32, device=heat.device) / (COARSE - 1)
    spread = (share * (pixels[..., None] - 1) + 0.5).floor()
    x, y, _ = _peak(heat, spread[:, None, 0], spread[:, None, 1], pixels)
    x = _around(x, pixels[:, :1], largest[1])
    y = _around(y, pixels[:, 1:], largest[0])
    x, y, height = _peak(heat, x, y, pixels)
    points = (torch.stack([x, y], dim=-1) + 0.5) * (sides / pixels)[:, None] + boxes[:, None, :2]
    return points, height


def _around(centre: Tensor, pixels: Tensor, largest: int) -> Tensor:
    """Every pixel up to two steps of the first look away from `centre` [N, K]: float32 [N, K, M]."""
    reach = 2 * -(-largest // COARSE)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32, device=centre.device)
    positions = (centre[..., None] + offsets).clamp(min=0)
    return torch.minimum(positions, pixels[..., None] - 1)


def _peak(heat: Tensor, x: Tensor, y: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The highest of the pixels at all pairs of these positions.

    Args:
        heat: float32 [N, K, S + 4, S + 4], with a border of two cells.
        x, y: float32 [N, K or 1, M]: pixels along either axis.
        pixels: float32 [N, 2]: the box's width and height.

    Returns:
        float32 [N, K] each: x, y and the height there.
    """
    across = _cubic(x, pixels[:, 0], heat.shape[3] - 4)
    down = _cubic(y, pixels[:, 1], heat.shape[2] - 4)
    surface = down @ heat @ across.transpose(2, 3)
    height, index = surface.flatten(2).max(dim=-1)
    columns = x.shape[2]
    best_x = x.expand(-1, heat.shape[1], -1).gather(2, (index % columns)[..., None])[..., 0]
    best_y = y.expand(-1, heat.shape[1], -1).gather(2, (index // columns)[..., None])[..., 0]
    return best_x, best_y, height


def _cubic(position: Tensor, pixels: Tensor, cells: int) -> Tensor:
    """Weight of each cell at each pixel when `cells` are resized to `pixels` (Keys, 1981).

    Args:
        position: float32 [N, K, M]. pixels: float32 [N].

    Returns:
        float32 [N, K, M, cells + 4]; the first and the last two are cells of the border.
    """
    at = (position + 0.5) * (cells / pixels)[:, None, None] - 0.5
    index = torch.arange(-2, cells + 2, dtype=torch.float32, device=position.device)
    away = (at[..., None] - index).abs()
    near = ((_A + 2) * away - (_A + 3)) * away * away + 1
    far = ((_A * away - 5 * _A) * away + 8 * _A) * away - 4 * _A
    return torch.where(away <= 1, near, torch.where(away < 2, far, 0.0))
