"""Outlines of objects as COCO writes them, and the pixels that they enclose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bbx.errors import BbxError

Outline = list[list[float]] | dict[str, Any]
"""COCO's `segmentation`: polygons as [x1, y1, x2, y2, …] in pixels, or a run-length encoding."""

_FEWEST = 6
"""Numbers of a polygon: three corners."""


def fault_of(outline: Any) -> str | None:
    """What is wrong with an outline, in words that follow "an outline"; None where nothing is."""
    if isinstance(outline, list):
        return next((fault for polygon in outline if (fault := _fault_of_polygon(polygon))), None)
    size = outline.get("size") if isinstance(outline, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and "counts" in outline):
        return "is neither a list of polygons nor a run-length encoding with `size` and `counts`"
    from faster_coco_eval import mask

    try:
        mask.decode(mask.segmToRle(outline, size[1], size[0]))
    except (ValueError, RuntimeError) as error:
        return f"cannot be decoded: {str(error).splitlines()[0]}"
    return None


def _fault_of_polygon(polygon: Any) -> str | None:
    if not isinstance(polygon, list) or len(polygon) < _FEWEST or len(polygon) % 2:
        return "has a polygon that is no list of three corners, or more, as x and y"
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in polygon):
        return "has a polygon with a corner that is no number"
    return None


def encoded(outline: Outline, size: tuple[int, int]) -> dict[str, Any]:
    """The pixels within an outline, run-length encoded, as COCO's own code finds them.

    Args:
        size: width and height of its image in pixels.

    Raises:
        BbxError: it is no outline, or run-length encoded for an image of another size.
    """
    from faster_coco_eval import mask

    if (fault := fault_of(outline)) is not None:
        raise BbxError(f"an outline (`segmentation`) {fault}.")
    if isinstance(outline, dict) and list(outline["size"]) != [size[1], size[0]]:
        raise BbxError(
            f"an outline is encoded for {outline['size'][1]} × {outline['size'][0]} pixels, and the image "
            f"has {size[0]} × {size[1]}."
        )
    found: dict[str, Any] = mask.segmToRle(outline, *size)
    return found


def pixels(outlines: Sequence[Outline], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels within each of some outlines of an image.

    Args:
        size: width and height of the image.

    Returns:
        bool [N, height, width].

    Raises:
        BbxError: as `encoded`.
    """
    from faster_coco_eval import mask

    width, height = size
    if not outlines:
        return np.zeros((0, height, width), dtype=np.bool_)
    planes = mask.decode([encoded(each, size) for each in outlines])
    return np.ascontiguousarray(planes.transpose(2, 0, 1)).astype(np.bool_)


def encoded_pixels(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Run-length encodings of masks, bool [N, height, width]."""
    from faster_coco_eval import mask

    if not len(masks):
        return []
    planes = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    found: list[dict[str, Any]] = mask.encode(planes)
    return found
