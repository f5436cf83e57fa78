"""RoIAlign over all levels of a feature pyramid at once (He et al., 2017; Lin et al., 2017, equation 1).

Both lowerings compute what torchvision's `MultiScaleRoIAlign` does, sample for sample. `static` lays the
levels out as one table with a row of channels for each cell, gathers the rows around every sample and
weighs them by a matrix product: a box on any level is the same work, so nothing depends on the data but the
indices. `onnx` is one operator, `bbx::roi_align`, which torch runs with torchvision's `roi_align` level by
level and which the ONNX exporter writes as standard `RoiAlign` nodes (`bbx.exporter.lowerings`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import ops

from bbx.errors import ModelError
from bbx.models.detection.boxes import areas

TAPS_AT_ONCE = 100_000
"""Rows of an image that the static lowering gathers at once: 100 MB of 256 channels in float32."""

_LEVEL_EPSILON = 1e-6
"""torchvision's tolerance when it rounds a level down."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """How a box becomes a grid of features.

    Attributes:
        strides: pixels of the image a cell, for each level that boxes are pooled from.
        limits: area in square pixels from which a box belongs to the next level; one fewer than `strides`.
        size: cells along either side of the grid.
        sampling: samples along either side of a cell, averaged.
    """

    strides: tuple[float, ...]
    limits: tuple[float, ...]
    size: int
    sampling: int = 2


def pooling_of(
    pooler: ops.MultiScaleRoIAlign, map_sizes: Sequence[tuple[int, int]], image_size: tuple[int, int]
) -> Pooling:
    """What a torchvision pooler does with feature maps of these sizes.

    Its strides are those that torchvision infers: powers of two, from the heights. It takes the first level
    for the smallest boxes and expects every next one to halve the size.

    Args:
        pooler: only its options are read.
        map_sizes: height and width of each map that the pooler reads (`featmap_names`).
        image_size: height and width of the network's input.

    Raises:
        ModelError: the pooler chooses its samples box by box, or its grid is not square.
    """
    size = pooler.output_size[0]
    if pooler.sampling_ratio < 1 or pooler.output_size != (size, size):
        raise ModelError(
            f"This RoIAlign has sampling_ratio={pooler.sampling_ratio} and output_size={pooler.output_size}, "
            "and a graph of fixed shape needs a fixed number of samples in a square grid.",
            hint="Give MultiScaleRoIAlign sampling_ratio=2 and one output size.",
        )
    strides = [2.0 ** -round(math.log2(height / image_size[0])) for height, _ in map_sizes]
    lowest, highest = int(math.log2(strides[0])), int(math.log2(strides[-1]))
    limits = tuple(
        (pooler.canonical_scale * 2 ** (level - pooler.canonical_level - _LEVEL_EPSILON)) ** 2
        for level in range(lowest + 1, highest + 1)
    )
    return Pooling(tuple(strides[: len(limits) + 1]), limits, size, pooler.sampling_ratio)


class WeightedCells(nn.Module):
    """Sums of weighted cells of a pyramid.

    A module without weights of its own, so that a typed graph can tell this arithmetic on features, which a
    smaller type is good enough for, from the arithmetic on coordinates around it, which it is not.
    """

    def forward(self, maps: Sequence[Tensor], index: Tensor, weights: Tensor) -> Tensor:
        """Gather and add.

        Args:
            maps: float [B, C, H, W] a level.
            index: int64 [B, R, size, size, T]: cells, numbered through the levels of an image.
            weights: float32, as `index`.

        Returns:
            float [B, R, C, size, size].
        """
        rows = torch.cat([level.flatten(2) for level in maps], dim=2).transpose(1, 2)
        images, cells, channels = rows.shape
        first = torch.arange(images, device=rows.device) * cells
        index = index + first[:, None, None, None, None]
        table = rows.reshape(-1, channels)
        weights = weights.to(rows.dtype)[..., None, :]
        boxes = max(1, TAPS_AT_ONCE // index[0, 0].numel())
        parts = [
            torch.matmul(
                weights[:, start : start + boxes],
                functional.embedding(index[:, start : start + boxes], table),
            )
            for start in range(0, index.shape[1], boxes)
        ]
        return torch.cat(parts, dim=1).squeeze(-2).permute(0, 1, 4, 2, 3)


def roi_align(
    maps: Sequence[Tensor],
    boxes: Tensor,
    how: Pooling,
    lowering: str,
    weighted: WeightedCells | None = None,
) -> Tensor:
    """Features of each box, on a grid of fixed size.

    Args:
        maps: float [B, C, H, W] a level; those beyond `how.strides` are not read.
        boxes: float32 [B, R, 4], pixels of the image. A box of area zero gives some finite features.
        how: see `Pooling`.
        lowering: `static` or `onnx`.
        weighted: the part of the caller that carries out the `static` lowering's products.

    Returns:
        float [B, R, C, size, size].
    """
    maps = list(maps[: len(how.strides)])
    if lowering == "onnx":
        pooled: Tensor = torch.ops.bbx.roi_align(
            maps,
            boxes,
            strides=list(how.strides),
            limits=list(how.limits),
            size=how.size,
            sampling=how.sampling,
        )
        return pooled
    index, weights = _taps(maps, boxes, how)
    found: Tensor = (weighted or WeightedCells())(maps, index, weights)
    return found


def _levels(boxes: Tensor, limits: Sequence[float]) -> Tensor:
    """int64 [...]: the level that each box is pooled from."""
    level = torch.zeros_like(boxes[..., 0], dtype=torch.int64)
    area = areas(boxes)
    for limit in limits:
        level = level + (area >= limit)
    return level


def _taps(maps: Sequence[Tensor], boxes: Tensor, how: Pooling) -> tuple[Tensor, Tensor]:
    """Which cells each grid cell is made of, and how much of each.

    Returns:
        int64 and float32 [B, R, size, size, taps]: rows of the image's table of cells, and their weights.
    """
    grids = [(level.shape[2], level.shape[3]) for level in maps]
    starts = [sum(height * width for height, width in grids[:number]) for number in range(len(grids))]
    facts = torch.tensor(
        [(1 / stride, *grid, start) for stride, grid, start in zip(how.strides, grids, starts, strict=True)],
        device=boxes.device,
    )
    scale, height, width, start = functional.embedding(_levels(boxes, how.limits), facts).unbind(dim=-1)
    y, weight_y = _axis_taps(boxes[..., 1] * scale, boxes[..., 3] * scale, height, how)
    x, weight_x = _axis_taps(boxes[..., 0] * scale, boxes[..., 2] * scale, width, how)
    y = y * width.long()[..., None, None] + start.long()[..., None, None]
    index = y[:, :, :, None, :, None] + x[:, :, None, :, None, :]
    weights = weight_y[:, :, :, None, :, None] * weight_x[:, :, None, :, None, :]
    return index.flatten(4), weights.flatten(4)


def _axis_taps(first: Tensor, last: Tensor, limit: Tensor, how: Pooling) -> tuple[Tensor, Tensor]:
    """The cells along one axis between which the samples of each grid cell lie.

    Args:
        first, last: float32 [B, R], the box's borders in cells of its level.
        limit: float32 [B, R], cells of that level.

    Returns:
        int64 and float32 [B, R, size, 2 * sampling].
    """
    count = how.size * how.sampling
    steps = (torch.arange(count, dtype=torch.float32, device=first.device) + 0.5) / how.sampling
    bin_side = (last - first).clamp(min=1) / how.size
    position = first[..., None] + steps * bin_side[..., None]
    limit = limit[..., None]
    # A sample further out than one cell counts as zero, a nearer one as the border.
    inside = (position >= -1) & (position <= limit)
    share = inside.to(torch.float32) / how.sampling
    position = torch.minimum(position.clamp(min=0), limit - 1)
    low = position.floor()
    high = torch.minimum(low + 1, limit - 1)
    upper = (position - low) * share
    cells = torch.stack([low, high], dim=-1).to(torch.int64)
    weights = torch.stack([share - upper, upper], dim=-1)
    shape = (*first.shape, how.size, 2 * how.sampling)
    return cells.reshape(shape), weights.reshape(shape)


@torch.library.custom_op("bbx::roi_align", mutates_args=())
def _roi_align(
    maps: Sequence[Tensor],
    boxes: Tensor,
    *,
    strides: Sequence[float],
    limits: Sequence[float],
    size: int,
    sampling: int,
) -> Tensor:
    images, count, _ = boxes.shape
    channels = maps[0].shape[1]
    owner = torch.arange(images, device=boxes.device).repeat_interleave(count)
    rois = torch.cat([owner[:, None].to(boxes.dtype), boxes.reshape(-1, 4)], dim=1)
    level = _levels(boxes, limits).flatten()
    pooled = maps[0].new_zeros((images * count, channels, size, size))
    for number, (cells, stride) in enumerate(zip(maps, strides, strict=True)):
        mine = torch.nonzero(level == number)[:, 0]
        pooled[mine] = ops.roi_align(cells, rois[mine], size, 1 / stride, sampling)
    return pooled.view(images, count, channels, size, size)


@_roi_align.register_fake
def _(
    maps: Sequence[Tensor],
    boxes: Tensor,
    *,
    strides: Sequence[float],
    limits: Sequence[float],
    size: int,
    sampling: int,
) -> Tensor:
    return maps[0].new_empty((boxes.shape[0], boxes.shape[1], maps[0].shape[1], size, size))
