"""COCO's own evaluation of detections on scenes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def mean_ap(dataset: Mapping[str, Any], detections: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, float]:
    """Mean average precision by pycocotools.

    Args:
        dataset: labels in COCO's format, as `coco_dataset` makes them.
        detections: for each of `dataset["images"]`, in order: `boxes` [N, 4] as x1, y1, x2, y2 in pixels of
            that image, `scores` [N] and `labels` [N], which are the ids of categories.

    Returns:
        `mAP` (the mean over IoU 0.50 to 0.95) and `mAP50`, both 0 to 1.
    """
    results = [
        {
            "image_id": image["id"],
            "category_id": int(label),
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": float(score),
        }
        for image, found in zip(dataset["images"], detections, strict=True)
        for (x1, y1, x2, y2), score, label in zip(
            found["boxes"], found["scores"], found["labels"], strict=True
        )
    ]
    if not results:
        return {"mAP": 0.0, "mAP50": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by printing
        truth = COCO()
        truth.dataset = dict(dataset)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"mAP": float(evaluation.stats[0]), "mAP50": float(evaluation.stats[1])}
