"""Arithmetic on boxes `x1, y1, x2, y2` in pixels, always in float32.

At 1,333 pixels half precision is a whole pixel coarse, so a typed graph keeps what happens here in FP32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST_SCALE = math.log(1000.0 / 16)
"""Limit of a predicted log-scale, so that its exponential cannot overflow (torchvision's)."""


def decode(deltas: Tensor, anchors: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Boxes from predicted offsets (Girshick et al., 2014, appendix C).

    Args:
        deltas: float [..., N, 4]: dx, dy, dw, dh, each multiplied by its weight.
        anchors: float32 [..., N, 4].
        weights: of dx, dy, dw, dh.

    Returns:
        float32 [..., N, 4], not clipped.
    """
    sizes = anchors[..., 2:] - anchors[..., :2]
    centres = anchors[..., :2] + 0.5 * sizes
    scale = torch.tensor(weights, dtype=torch.float32, device=deltas.device)
    scaled = deltas.float() / scale
    moved = scaled[..., :2] * sizes + centres
    half = 0.5 * torch.exp(scaled[..., 2:].clamp(max=LARGEST_SCALE)) * sizes
    return torch.cat([moved - half, moved + half], dim=-1)


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes float32 [..., 4] cut off at the borders of an image."""
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack([x, y], dim=-1).flatten(-2)


def areas(boxes: Tensor) -> Tensor:
    """float32 [..., N, 4] to [..., N], in square pixels."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return sizes[..., 0] * sizes[..., 1]


def sides_at_least(boxes: Tensor, smallest: float) -> Tensor:
    """Whether both sides of a box are at least `smallest` pixels: bool [..., N]."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return (sizes >= smallest).all(dim=-1)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of each image: values [B, N, C] or [B, N] at index int64 [B, M], to [B, M, C] or [B, M]."""
    if values.ndim == 2:
        return values.gather(1, index)
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


_LOWEST_LOGIT = -87.0
"""Below it the exponential of the negative is no longer a float32."""


def probability(logits: Tensor) -> Tensor:
    """The sigmoid, float32, by which boxes are ranked, as far down as float32 can tell numbers apart.

    ONNX Runtime's own is flat below -18, where a trained region proposal network puts most of an image; boxes
    would lose their order.
    """
    return 1 / (1 + torch.exp(-logits.float().clamp(min=_LOWEST_LOGIT)))
