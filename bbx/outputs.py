"""From what a network gives back to the image it was given: labels, boxes, masks and keypoints in its pixels.

All that is needed stands in the artefact's manifest: `preprocess` says where the image lies in the input, and
`postprocess` what the outputs are. NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bbx.errors import UsageError
from bbx.images import placement
from bbx.types import Postprocess, Preprocess

MASK_THRESHOLD = 0.5
"""Probability from which a pixel belongs to a mask (He et al., 2017, section 3.1)."""

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Classified:
    """One image, classified.

    Attributes:
        probabilities: float64 [C], the softmax of the logits; they sum to one.
        order: int64 [C], the classes, the most probable first.
    """

    probabilities: NDArray[np.float64]
    order: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Detected:
    """What was found in one image of `height` × `width` pixels, the best first.

    Attributes:
        boxes: float64 [N, 4] as x1, y1, x2, y2 in pixels of the image, cut off at its borders.
        scores: float64 [N].
        labels: int64 [N], in the checkpoint's numbering.
        masks: bool [N, height, width], or None where the model gives none.
        keypoints: float64 [N, K, 3] as x, y in pixels of the image and visibility, or None.
        saturated: whether a limit of the network was reached, so that something may be missing.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None
    keypoints: NDArray[np.float64] | None
    saturated: bool


@dataclass(frozen=True, slots=True)
class Segmented:
    """One image, segmented.

    Attributes:
        labels: int64 [height, width], the class of each pixel of the image.
    """

    labels: NDArray[np.int64]


Result = Classified | Detected | Segmented


def restore(
    outputs: Outputs, preprocess: Preprocess, postprocess: Postprocess, sizes: Sequence[tuple[int, int]]
) -> list[Result]:
    """What a batch of outputs says about the images that it was made from.

    Args:
        outputs: of the network, by name, the batch first.
        sizes: (width, height) of each image before preprocessing, as Pillow's `Image.size` has it.

    Raises:
        UsageError: an output is missing, or the number of images is another.
    """
    if postprocess.task == "classification":
        return [_classified(row) for row in _rows(outputs, "logits", sizes)]
    if postprocess.task == "detection":
        _rows(outputs, "num_detections", sizes)
        return [_detected(outputs, index, size, preprocess) for index, size in enumerate(sizes)]
    name = "labels" if "labels" in outputs else "logits"
    rows = _rows(outputs, name, sizes)
    return [_segmented(row, size, preprocess) for row, size in zip(rows, sizes, strict=True)]


def _rows(outputs: Outputs, name: str, sizes: Sequence[tuple[int, int]]) -> NDArray[Any]:
    if name not in outputs:
        raise UsageError(f"There is no output {name!r}.", hint=f"There are: {', '.join(sorted(outputs))}.")
    if len(outputs[name]) != len(sizes):
        raise UsageError(f"{len(outputs[name])} rows were computed, and {len(sizes)} image sizes are given.")
    return outputs[name]


def _classified(logits: NDArray[Any]) -> Classified:
    values = logits.astype(np.float64)
    powers = np.exp(values - values.max())
    return Classified(powers / powers.sum(), np.argsort(-values, kind="stable"))


def _detected(outputs: Outputs, index: int, size: tuple[int, int], how: Preprocess) -> Detected:
    width, height = size
    count = int(outputs["num_detections"][index])
    boxes = _in_image(outputs["boxes"][index, :count], size, how)
    # What was found in the margin of a letterbox has no place in the image.
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes = boxes[real]
    masks = keypoints = None
    if "masks" in outputs:
        parts = outputs["masks"][index, :count][real]
        masks = np.zeros((len(parts), height, width), dtype=np.bool_)
        for mask, part, box in zip(masks, parts, boxes, strict=True):
            _paste(mask, part, box)
    if "keypoints" in outputs:
        points = outputs["keypoints"][index, :count][real].astype(np.float64)
        places = points[..., :2].reshape(-1, 2)
        keypoints = np.concatenate(
            [_points_in_image(places, size, how).reshape(*points.shape[:2], 2), points[..., 2:]], axis=-1
        )
    return Detected(
        boxes=boxes,
        scores=outputs["scores"][index, :count][real].astype(np.float64),
        labels=outputs["labels"][index, :count][real].astype(np.int64),
        masks=masks,
        keypoints=keypoints,
        saturated=bool(outputs["saturated"][index]),
    )


def _in_image(boxes: NDArray[Any], size: tuple[int, int], how: Preprocess) -> NDArray[np.float64]:
    """Boxes [N, 4] of the network's input in pixels of the image, cut off at its borders."""
    corners = _points_in_image(boxes.reshape(-1, 2).astype(np.float64), size, how)
    return np.clip(corners, 0, np.asarray(size, dtype=np.float64)).reshape(-1, 4)


def _points_in_image(
    points: NDArray[np.float64], size: tuple[int, int], how: Preprocess
) -> NDArray[np.float64]:
    scale_x, scale_y, left, top = placement(*size, how)
    moved: NDArray[np.float64] = (points - (left, top)) / (scale_x, scale_y)
    return moved


def _paste(mask: NDArray[np.bool_], part: NDArray[Any], box: NDArray[np.float64]) -> None:
    """Lay the probabilities of a box, float [M, M], onto an image as torchvision does, in place."""
    side = part.shape[0]
    # A margin of one cell, so that the outline is interpolated too; the box grows with it.
    padded = np.pad(part.astype(np.float64), 1)
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * (side + 2) / side
    left, top = (int(value) for value in centre - half)
    right, bottom = (int(value) for value in centre + half)
    width, height = max(right - left + 1, 1), max(bottom - top + 1, 1)
    pasted = resized(padded, height, width) > MASK_THRESHOLD
    y1, y2 = max(top, 0), min(bottom + 1, mask.shape[0])
    x1, x2 = max(left, 0), min(right + 1, mask.shape[1])
    mask[y1:y2, x1:x2] = pasted[y1 - top : y2 - top, x1 - left : x2 - left]


def _segmented(given: NDArray[Any], size: tuple[int, int], how: Preprocess) -> Segmented:
    width, height = size
    scale_x, scale_y, left, top = placement(width, height, how)
    # Where each pixel of the image stands in the output, as cells that begin at their left border.
    x = (np.arange(width) + 0.5) * scale_x + left - 0.5
    y = (np.arange(height) + 0.5) * scale_y + top - 0.5
    if given.ndim == 2:
        rows, columns = (_nearest(axis, length) for axis, length in zip((y, x), given.shape, strict=True))
        return Segmented(given[rows[:, None], columns].astype(np.int64))
    down, across = _Between.of(y, given.shape[1]), _Between.of(x, given.shape[2])
    best = np.full((height, width), -np.inf)
    labels = np.zeros((height, width), dtype=np.int64)
    for label, plane in enumerate(given):  # class by class: all planes of a large image fill the memory
        values = _interpolated(plane, down, across)
        higher = values > best
        best[higher], labels[higher] = values[higher], label
    return Segmented(labels)


def resized(plane: NDArray[Any], height: int, width: int) -> NDArray[np.float64]:
    """A plane [H, W] brought to another size bilinearly, as torch's `interpolate` with unaligned corners."""
    old_height, old_width = plane.shape
    y = (np.arange(height) + 0.5) * old_height / height - 0.5
    x = (np.arange(width) + 0.5) * old_width / width - 0.5
    return _interpolated(plane, _Between.of(y, old_height), _Between.of(x, old_width))


def _nearest(positions: NDArray[np.floating[Any]], length: int) -> NDArray[np.int64]:
    cells: NDArray[np.int64] = np.clip(np.rint(positions), 0, length - 1).astype(np.int64)
    return cells


@dataclass(frozen=True, slots=True)
class _Between:
    """Where positions stand between the cells of an axis.

    Attributes:
        low, high: int64 [N], the cells before and behind each.
        share: float64 [N], how much of it the one behind is.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    share: NDArray[np.float64]

    @classmethod
    def of(cls, positions: NDArray[np.floating[Any]], length: int) -> _Between:
        """Of positions on an axis of so many cells; outside, the border counts."""
        inside = np.clip(positions, 0, length - 1).astype(np.float64)
        low = np.floor(inside).astype(np.int64)
        return cls(low, np.minimum(low + 1, length - 1), inside - low)


def _interpolated(plane: NDArray[Any], down: _Between, across: _Between) -> NDArray[np.float64]:
    """A plane at the positions of its rows and columns, bilinearly."""
    plane = plane.astype(np.float64)
    rows = plane[down.low]
    rows += (plane[down.high] - rows) * down.share[:, None]
    left = rows[:, across.low]
    left += (rows[:, across.high] - left) * across.share
    return left
