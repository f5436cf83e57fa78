"""Greedy non-maximum suppression over a batch, as a mask of fixed shape, in two lowerings.

`static` uses ordinary operators only. Greedy suppression of boxes sorted by falling score is the fixed point
of `keep[i] = not any(keep[j] and iou(j, i) > threshold for j < i)`. Iterating from "keep all", each pass
settles at least the next link of every chain of suppressions. Passes of even number keep every box that
greedy suppression keeps, passes of odd number only such boxes; so where two in a row agree the answer is
exact, and where they do not yet agree after `PASSES`, duplicates may be left and no detection is lost.

`onnx` is one operator, `bbx::suppress`, which torch runs with torchvision's `nms` and which the ONNX exporter
writes as the standard `NonMaxSuppression` (`bbx.exporter.lowerings`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from bbx.models.detection.boxes import areas

PASSES = 16
"""Passes of the static lowering, even: the longest chain of suppressions that it resolves exactly."""


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
    keep, before = _last_passes(_overlapping(boxes, labels, threshold))
    settled = (keep == before) | (scores <= 0)
    return keep, settled.all(dim=1)


def _overlapping(boxes: Tensor, labels: Tensor | None, threshold: float) -> Tensor:
    """float32 [B, N, N]: 1 where the box of the column comes first and overlaps that of the row too much.

    `common / (area + area - common) > t` is `common > t / (1 + t) * (area + area)`: no division, and boxes
    without an area overlap nothing. Every operation on [N, N] costs as much as all on [N], so there are few.
    """
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    width = torch.minimum(x2[:, None, :], x2[:, :, None]) - torch.maximum(x1[:, None, :], x1[:, :, None])
    height = torch.minimum(y2[:, None, :], y2[:, :, None]) - torch.maximum(y1[:, None, :], y1[:, :, None])
    # A negative extent makes the product negative unless both are: one of them must not be.
    common = width.clamp(min=0) * height
    share = areas(boxes) * (threshold / (1 + threshold))
    overlaps = common > share[:, None, :] + share[:, :, None]
    if labels is not None:
        overlaps = overlaps & (labels[:, None, :] == labels[:, :, None])
    count = boxes.shape[1]
    earlier = torch.ones(count, count, device=boxes.device).tril(-1)
    return torch.where(overlaps, earlier, 0.0)


def _last_passes(overlaps: Tensor) -> tuple[Tensor, Tensor]:
    """bool [B, N] after `PASSES` passes, and after one fewer."""
    keep = before = torch.ones_like(overlaps[:, :, :1])
    for _ in range(PASSES):
        keep, before = (overlaps @ keep < 0.5).float(), keep
    return keep[..., 0] > 0.5, before[..., 0] > 0.5


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
