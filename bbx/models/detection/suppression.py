"""Greedy non-maximum suppression over a batch, as a mask of fixed shape, in two lowerings.

`static` uses ordinary operators only. Greedy suppression of boxes sorted by falling score is the fixed point
of `keep[i] = not any(keep[j] and iou(j, i) > threshold for j < i)`. Iterating from "keep all", each pass
settles at least the next link of every chain of suppressions, and the answers of passes close in on the
fixed point from both sides: an even number of passes keeps every box that greedy suppression keeps, an odd
number only such boxes. Where two in a row agree they are the answer. Boxes are taken `BLOCK` at a time, each
block after the ones before it, because chains within a block are shorter and its matrix stays in the cache.
A chain of more than `PASSES` links within a block may leave duplicates, and never loses a detection.

`onnx` is one operator, `bbx::suppress`, which torch runs with torchvision's `nms` and which the ONNX exporter
writes as the standard `NonMaxSuppression` (`bbx.exporter.lowerings`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from bbx.models.detection.boxes import areas

PASSES = 14
"""Passes over a block, even: the longest chain of suppressions within it that is resolved exactly.

In random sets of 1,000 and 2,000 boxes, from spread out to all in one heap, the longest had 12 links.
"""

BLOCK = 512
"""Boxes that are settled together."""


def suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor | None, threshold: float, lowering: str
) -> tuple[Tensor, Tensor]:
    """Which boxes survive greedy suppression within their label.

    Args:
        boxes: float32 [B, N, 4], each row sorted by falling score. A box whose score is not positive is
            padding: it stands behind all others or has an area of zero, and whether it is kept does not
            matter.
        scores: float32 [B, N].
        labels: int64 [B, N]; None where all boxes compete.
        threshold: IoU above which the box of the lower score goes.
        lowering: `static` or `onnx`.

    Returns:
        bool [B, N]: the survivors. bool [B]: whether they are exact; if not, there may be too many.
    """
    if lowering == "onnx":
        marks = torch.zeros_like(scores, dtype=torch.int64) if labels is None else labels
        kept: Tensor = torch.ops.bbx.suppress(boxes, scores, marks, threshold)
        return kept, torch.ones_like(scores[:, 0], dtype=torch.bool)
    upper, lower = _bounds(boxes, labels, threshold)
    settled = (upper == lower) | (scores <= 0)
    return upper > 0.5, settled.all(dim=1)


def _bounds(boxes: Tensor, labels: Tensor | None, threshold: float) -> tuple[Tensor, Tensor]:
    """Masks of 0 and 1, float32 [B, N]: of all boxes that greedy suppression may keep, and surely keeps."""
    found: list[Tensor] = []
    for start in range(0, boxes.shape[1], BLOCK):
        stop = min(start + BLOCK, boxes.shape[1])
        overlaps = _overlapping(
            boxes[:, :stop], None if labels is None else labels[:, :stop], start, threshold
        )
        # A box goes when it overlaps a kept one of its block, or of an earlier block: then nothing is below
        # its limit. What earlier boxes may be kept bounds it from below, what they surely are from above.
        limits = torch.full_like(overlaps[:, :, :2], 0.5)
        if found:
            limits = limits - overlaps[:, :, :start] @ torch.cat(found, dim=1)
        limit_lower, limit_upper = torch.split(limits, 1, dim=2)
        own = overlaps[:, :, start:]
        upper = lower = torch.ones_like(limit_upper)
        for _ in range(PASSES // 2):
            lower = (own @ upper < limit_lower).float()
            upper = (own @ lower < limit_upper).float()
        found.append(torch.cat([upper, lower], dim=2))
    upper, lower = torch.cat(found, dim=1).unbind(dim=2)
    return upper, lower


def _overlapping(boxes: Tensor, labels: Tensor | None, start: int, threshold: float) -> Tensor:
    """float32 [B, N - start, N]: 1 where a column's box comes before a row's and overlaps it too much.

    Rows are the boxes from `start` on. `common / (area + area - common) > t` is
    `common > t / (1 + t) * (area + area)`: no division, and boxes without an area overlap nothing. Every
    operation on the matrix costs as much as all on its borders, so there are few.
    """
    x1, y1, x2, y2 = torch.split(boxes.transpose(1, 2), 1, dim=1)
    own_x1, own_y1, own_x2, own_y2 = torch.split(boxes[:, start:], 1, dim=2)
    width = torch.minimum(x2, own_x2) - torch.maximum(x1, own_x1)
    height = torch.minimum(y2, own_y2) - torch.maximum(y1, own_y1)
    # A negative extent makes the product negative unless both are: one of them must not be.
    common = width.clamp(min=0) * height
    share = areas(boxes) * (threshold / (1 + threshold))
    overlaps = common > share[:, None, :] + share[:, start:, None]
    if labels is not None:
        overlaps = overlaps & (labels[:, None, :] == labels[:, start:, None])
    count = boxes.shape[1]
    earlier = torch.ones(count - start, count, device=boxes.device).tril(start - 1)
    return torch.where(overlaps, earlier, 0.0)


@torch.library.custom_op("bbx::suppress", mutates_args=())
def _suppress(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    keep = torch.zeros_like(scores, dtype=torch.bool)
    # Labels move apart so that one run serves all of them. In float64 the shift costs a coordinate some
    # 1e-11 pixels, where float32 would cost the last of many labels whole hundredths.
    apart = labels.double() * (boxes.amax().double() - boxes.amin().double() + 1)
    moved = boxes.double() + apart[..., None]
    for image in range(boxes.shape[0]):
        mine = torch.nonzero(scores[image] > 0)[:, 0]
        keep[image, mine[nms(moved[image, mine], scores[image, mine].double(), threshold)]] = True
    return keep


@_suppress.register_fake
def _(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)
