"""Greedy non-maximum suppression over a batch, as a mask of fixed shape, in two lowerings.

`static` uses ordinary operators only. Greedy suppression of boxes sorted by falling score is the fixed point
of `keep[i] = not any(keep[j] and iou(j, i) > threshold for j < i)`. Iterating from "keep all", each pass
settles at least the next link of every chain of suppressions, and after an even number of passes what is
not settled yet is kept: a chain longer than `PASSES` may leave duplicates, and never loses a detection.

`onnx` is one operator, `bbx::suppress`, which torch runs with torchvision's `nms` and which the ONNX exporter
writes as the standard `NonMaxSuppression` (`bbx.exporter.lowerings`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from bbx.models.detection.boxes import areas

PASSES = 16
"""Passes of the static lowering: the longest chain of suppressions that it resolves exactly."""


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor | None, threshold: float, lowering: str) -> Tensor:
    """Which boxes survive greedy suppression within their label.

    Args:
        boxes: float32 [B, N, 4], each row sorted by falling score; padding has an area of zero or a score
            that is not positive, and what becomes of it does not matter.
        scores: float32 [B, N].
        labels: int64 [B, N]; None where all boxes compete.
        threshold: IoU above which the box of the lower score goes.
        lowering: `static` or `onnx`.

    Returns:
        bool [B, N].
    """
    if lowering == "onnx":
        marks = torch.zeros_like(scores, dtype=torch.int64) if labels is None else labels
        kept: Tensor = torch.ops.bbx.suppress(boxes, scores, marks, threshold)
        return kept
    return _fixed_point(_overlapping(boxes, labels, threshold))


def _overlapping(boxes: Tensor, labels: Tensor | None, threshold: float) -> Tensor:
    """float32 [B, N, N]: 1 where the box of the column comes first and overlaps that of the row too much."""
    area = areas(boxes)
    first, second = boxes[:, None, :, :], boxes[:, :, None, :]
    width = (
        torch.minimum(first[..., 2], second[..., 2]) - torch.maximum(first[..., 0], second[..., 0])
    ).clamp(min=0)
    height = (
        torch.minimum(first[..., 3], second[..., 3]) - torch.maximum(first[..., 1], second[..., 1])
    ).clamp(min=0)
    common = width * height
    union = area[:, None, :] + area[:, :, None] - common
    overlaps = common > threshold * union
    if labels is not None:
        overlaps = overlaps & (labels[:, None, :] == labels[:, :, None])
    rank = torch.arange(boxes.shape[1], device=boxes.device)
    return (overlaps & (rank[None, :] < rank[:, None])).float()


def _fixed_point(overlaps: Tensor) -> Tensor:
    keep = torch.ones_like(overlaps[:, :, :1])
    for _ in range(PASSES):
        keep = (overlaps @ keep < 0.5).float()
    return keep[..., 0] > 0.5


@torch.library.custom_op("bbx::suppress", mutates_args=())
def _suppress(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(boxes.shape[0]):
        for label in labels[image].unique():
            mine = torch.nonzero(labels[image] == label)[:, 0]
            keep[image, mine[nms(boxes[image, mine], scores[image, mine], threshold)]] = True
    return keep


@_suppress.register_fake
def _(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)
