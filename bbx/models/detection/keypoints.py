"""Keypoints from heat maps, as torchvision finds them, in a graph of fixed shape.

torchvision's `heatmaps_to_keypoints` enlarges the heat maps of a box to the box's size in pixels, by a
bicubic kernel, and takes the highest pixel: a shape for every box. Here the same pixels of the same surface
are looked at in two ways of fixed shape:

- `SPREAD` evenly spread ones along either axis: all of them, in a box that is no larger;
- all those of the `CELLS` cells that could hold the highest one. Between four values of a heat map the
  surface is a bicubic patch, and no point of it is above the highest of its 16 Bézier control points (Farin,
  "Curves and Surfaces for CAGD", the convex hull property), so cells are ranked by these. Along an axis with
  fewer pixels than cells, the only pixel of a cell takes the place of control points.

The head of a Keypoint R-CNN enlarges its heat maps twofold, so the surface is smooth: of maps that hold
nothing but noise, at most 4 cells came before the one with the peak.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional

SPREAD = 112
"""Positions along an axis that are looked at whatever the heat map."""

CELLS = 8
"""Cells whose every pixel is looked at."""

_A = -0.75
"""Keys' constant of torch's bicubic interpolation."""

_NEAR = 1e-4
"""Of a cell, by which a pixel may lie beyond its end: a rounding."""

_BORDER = 2
"""Cells by which a heat map is continued with the value at its edge."""


def locate(heat: Tensor, boxes: Tensor, largest: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The highest point of each heat map.

    Args:
        heat: float32 [N, K, S, S].
        boxes: float32 [N, 4], the part of the image that the heat maps cover.
        largest: height and width of the largest box, in pixels.

    Returns:
        float32 [N, K, 2]: x, y in pixels of the image. float32 [N, K]: the height.
    """
    cells = heat.shape[3]
    heat = functional.pad(heat, (_BORDER,) * 4, mode="replicate")
    # A box that is smaller than a pixel counts as one.
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = sides.ceil()
    found = [_among_spread(heat, pixels, cells)]
    if max(largest) > SPREAD:
        found.append(_in_best_cells(heat, pixels, cells, largest))
    x, y, height = (torch.cat(parts, dim=-1) for parts in zip(*found, strict=True))
    height, best = height.max(dim=-1, keepdim=True)
    points = torch.cat([x.gather(2, best), y.gather(2, best)], dim=-1)
    return (points + 0.5) * (sides / pixels)[:, None] + boxes[:, None, :2], height[..., 0]


def _among_spread(heat: Tensor, pixels: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """The highest of pixels that are spread over the whole box: x, y and height, float32 [N, K, 1] each."""
    share = torch.arange(SPREAD, dtype=torch.float32, device=heat.device) / (SPREAD - 1)
    spread = (share * (pixels[..., None] - 1) + 0.5).floor()
    nodes = torch.arange(-_BORDER, cells + _BORDER, dtype=torch.float32, device=heat.device)
    weights = _cubic((_at(spread, pixels[..., None], cells)[..., None] - nodes).abs())[:, None]
    surface = weights[:, :, 1] @ heat @ weights[:, :, 0].transpose(2, 3)
    height, index = surface.flatten(2).max(dim=-1, keepdim=True)
    every = spread[:, None].expand(-1, heat.shape[1], -1, -1)
    return every[:, :, 0].gather(2, index % SPREAD), every[:, :, 1].gather(2, index // SPREAD), height


def _in_best_cells(
    heat: Tensor, pixels: Tensor, cells: int, largest: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The highest pixel of each of the cells that could hold it: x, y and height, float32 [N, K, CELLS] each.

    The height is that of no pixel, -inf, for a cell without one.
    """
    patches = cells + 1
    _, best = _bounds(heat, pixels, cells).flatten(2).topk(CELLS, dim=-1)
    column, row = best % patches, best // patches
    taps = torch.arange(4, device=heat.device)
    width = cells + 2 * _BORDER
    index = (row[..., None, None] + taps[:, None]) * width + column[..., None, None] + taps
    values = heat.flatten(2).gather(2, index.flatten(2)).reshape(*best.shape, 4, 4)
    x, across, inside_x = _pixels_of(column, pixels[:, 0], cells, largest[1])
    y, down, inside_y = _pixels_of(row, pixels[:, 1], cells, largest[0])
    surface = down @ values @ across.transpose(3, 4)
    surface = torch.where(inside_y[..., None] & inside_x[..., None, :], surface, -torch.inf)
    height, index = surface.flatten(3).max(dim=-1, keepdim=True)
    count = x.shape[3]
    return x.gather(3, index % count)[..., 0], y.gather(3, index // count)[..., 0], height[..., 0]


def _bounds(heat: Tensor, pixels: Tensor, cells: int) -> Tensor:
    """What no pixel of a cell is above: float32 [N, K, S + 1, S + 1], and -inf for a cell without one."""
    across, some_x = _controls(pixels[:, 0], cells)
    down, some_y = _controls(pixels[:, 1], cells)
    rows = [weights[:, None] @ heat for weights in down.unbind(2)]
    points = [each @ weights[:, None].transpose(2, 3) for each in rows for weights in across.unbind(2)]
    highest = functools.reduce(torch.maximum, points)
    return torch.where(some_y[:, None, :, None] & some_x[:, None, None], highest, -torch.inf)


def _controls(pixels: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """What makes the control points of every cell along one axis.

    Args:
        pixels: float32 [N], the box's.

    Returns:
        float32 [N, S + 1, 4, S + 4]: the weights of a heat map's values in each of the four.
        bool [N, S + 1]: whether there is a pixel in the cell.
    """
    slope = -_A / 3
    bezier = torch.tensor([[0, 1, 0, 0], [-slope, 1, slope, 0], [0, slope, 1, -slope], [0, 0, 1, 0]])
    every = torch.arange(cells + 1, device=pixels.device)
    _, weights, here = _pixels_of(every[None, None], pixels, cells, cells)
    narrow = pixels[:, None, None, None] < cells
    only = (weights * here[..., None]).sum(-2) / here.sum(-1, keepdim=True).clamp(min=1)
    of_cell = torch.where(narrow, only[:, 0, :, None], bezier.to(pixels.device))
    taps = every[:, None, None] + torch.arange(4, device=pixels.device)[:, None]
    place = (torch.arange(cells + 2 * _BORDER, device=pixels.device) == taps).to(pixels.dtype)
    return of_cell @ place, here.any(-1)[:, 0] | ~narrow[..., 0, 0]


def _pixels_of(cell: Tensor, pixels: Tensor, cells: int, largest: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels of some cells along one axis.

    Args:
        cell: int64 [N, K, C]; cell c lies between the values c - 1 and c of the heat map.
        pixels: float32 [N], the box's.
        largest: pixels of the largest box.

    Returns:
        float32 [N, K, C, M]: the pixels. float32 [N, K, C, M, 4]: the weights of the four values around them.
        bool [N, K, C, M]: whether it is one of the box, in this cell.
    """
    of_box = pixels[:, None, None, None]
    start = (cell - 1).to(pixels.dtype)[..., None]
    first = ((start + 0.5) * (of_box / cells) - 0.5).ceil()
    offsets = torch.arange(-1, math.ceil(largest / cells) + 1, dtype=torch.float32, device=cell.device)
    positions = first + offsets
    inside = _at(positions, of_box, cells) - start
    taps = torch.arange(-1, 3, dtype=torch.float32, device=cell.device)
    # One beyond either end by a rounding has the same height from both of its cells.
    here = (positions >= 0) & (positions < of_box) & (inside > -_NEAR) & (inside < 1 + _NEAR)
    return positions, _cubic((inside[..., None] - taps).abs()), here


def _at(position: Tensor, pixels: Tensor, cells: int) -> Tensor:
    """Where a pixel lies among the values of a heat map that is resized from `cells` to `pixels`."""
    return (position + 0.5) * (cells / pixels) - 0.5


def _cubic(away: Tensor) -> Tensor:
    """Weight of a value at a distance (Keys, 1981)."""
    near = ((_A + 2) * away - (_A + 3)) * away * away + 1
    far = ((_A * away - 5 * _A) * away + 8 * _A) * away - 4 * _A
    return torch.where(away <= 1, near, torch.where(away < 2, far, 0.0))
