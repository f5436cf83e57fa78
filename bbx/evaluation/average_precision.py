"""COCO's evaluation of boxes, outlines and keypoints, by faster-coco-eval, in its own terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bbx.datasets import Boxes
from bbx.outputs import Detected

Kind = Literal["bbox", "segm", "keypoints"]
"""By what two objects are compared: boxes, outlines, or keypoints."""

MOST_DETECTIONS: dict[Kind, int] = {"bbox": 100, "segm": 100, "keypoints": 20}
"""Of one image and class that count, as COCO has it."""

PERSON_KEYPOINTS = 17

_OKS_SIGMA = 0.05
"""How far annotators differ about a keypoint, as a share of the object's size, where nobody has measured it.

COCO measured it for the keypoints of a person: 0.025 for an eye to 0.107 for a hip.
"""


@dataclass(frozen=True, slots=True)
class Detection:
    """One image: what is on it, and what was found.

    Attributes:
        found: without masks.
        outlines: of what is on it, run-length encoded; None where they are not to be judged.
        masks: of what was found, likewise.
        size: width and height of the image in pixels; 0 where nobody needs them.
    """

    wanted: Boxes
    found: Detected
    outlines: list[dict[str, Any]] | None = None
    masks: list[dict[str, Any]] | None = None
    size: tuple[int, int] = (0, 0)


def judged(looks: Sequence[Detection]) -> tuple[Kind, ...]:
    """By what these images can be judged: boxes, and what the data and the network both have."""
    kinds: list[Kind] = ["bbox"]
    if any(look.outlines for look in looks) and all(look.outlines is not None for look in looks):
        kinds.append("segm")
    pairs = [(look.wanted.keypoints, look.found.keypoints) for look in looks]
    if pairs and all(a is not None and b is not None and a.shape[1:] == b.shape[1:] for a, b in pairs):
        kinds.append("keypoints")
    return tuple(kinds)


def evaluated(looks: Sequence[Detection], labels: range, kind: Kind, *, sizes: bool = True) -> Any:
    """faster-coco-eval's evaluation, before its numbers are accumulated.

    Args:
        labels: numbers of the classes, without the background.
        sizes: for each size of objects and number of detections; else for all of them together.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(_annotations(looks, labels, kind))
    rows = _detections(looks, kind)
    # faster-coco-eval's own reader takes no list without entries.
    found = truth.loadRes(rows) if rows else COCO({**truth.dataset, "annotations": []})
    evaluation = COCOeval_faster(
        truth,
        found,
        kind,
        print_function=_unsaid,
        separate_eval=True,
        kpt_oks_sigmas=_sigmas(looks) if kind == "keypoints" else None,
    )
    # By itself it takes, of keypoints, only the classes that are annotated.
    evaluation.params.catIds = list(labels)
    if not sizes:
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [evaluation.params.areaRng[0]], ["all"]
        evaluation.params.maxDets = [MOST_DETECTIONS[kind]]
    evaluation.evaluate()
    return evaluation


def _sigmas(looks: Sequence[Detection]) -> list[float] | None:
    """COCO's own for the keypoints of a person, which None stands for."""
    keypoints = looks[0].wanted.keypoints
    assert keypoints is not None  # or they would not be judged
    return None if keypoints.shape[1] == PERSON_KEYPOINTS else [_OKS_SIGMA] * keypoints.shape[1]


def _annotations(looks: Sequence[Detection], labels: range, kind: Kind) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for number, look in enumerate(looks, start=1):
        wanted = look.wanted
        for row in range(len(wanted)):
            entry = {
                "id": len(rows) + 1,
                "image_id": number,
                "category_id": int(wanted.labels[row]),
                "bbox": _sides(wanted.boxes[row]),
                "area": float(wanted.areas[row]),
                "iscrowd": int(wanted.crowd[row]),
            }
            if kind == "segm":
                assert look.outlines is not None
                entry["segmentation"] = look.outlines[row]
            if kind == "keypoints":
                assert wanted.keypoints is not None
                entry["keypoints"] = wanted.keypoints[row].ravel().tolist()
                entry["num_keypoints"] = int((wanted.keypoints[row, :, 2] > 0).sum())
            rows.append(entry)
    return {
        "info": {},
        "images": [
            {"id": number, "width": look.size[0], "height": look.size[1]}
            for number, look in enumerate(looks, start=1)
        ],
        "annotations": rows,
        "categories": [{"id": label, "name": str(label)} for label in labels],
    }


def _detections(looks: Sequence[Detection], kind: Kind) -> list[dict[str, Any]]:
    rows = []
    for number, look in enumerate(looks, start=1):
        found = look.found
        for row in range(len(found.labels)):
            entry: dict[str, Any] = {
                "image_id": number,
                "category_id": int(found.labels[row]),
                "score": float(found.scores[row]),
            }
            if kind == "bbox":
                entry["bbox"] = _sides(found.boxes[row])
            elif kind == "segm":
                assert look.masks is not None
                entry["segmentation"] = look.masks[row]
            else:
                assert found.keypoints is not None
                entry["keypoints"] = found.keypoints[row].ravel().tolist()
            rows.append(entry)
    return rows


def _sides(box: NDArray[np.float64]) -> list[float]:
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2 - x1, y2 - y1]


def _unsaid(*words: object) -> None:
    """Takes what a library would print."""
