"""How good a graph is in the terms of its task: against labels and annotations where there are some, else
against FP32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from bbx.calibration.judged import Batches
from bbx.calibration.sessions import session
from bbx.calibration.truth import Truth
from bbx.errors import BbxError
from bbx.exporter.detections import DETECTION_TOLERANCES
from bbx.exporter.matching import match
from bbx.types import Postprocess

Answers = Mapping[str, NDArray[Any]]

_LEAST_OVERLAP = 0.5
"""Of two detections that are the same thing, as in mAP@0.5."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A measure of the task on a fixed set of images.

    Attributes:
        name: `top1`, `mAP`, `mIoU`, `top1_agreement`, `pixel_agreement` or `matched_detections`.
        of: images, pixels or detections that are judged.
        baseline: what the FP32 graph reaches, 0..1; 1 for agreement with itself.
        score: of any graph with the same inputs and outputs.
    """

    name: str
    of: int
    baseline: float
    score: Callable[[ModelProto], float]


def accuracy_of(
    model: ModelProto,
    batches: Batches,
    postprocess: Postprocess | None,
    labels: Sequence[int] | None = None,
    truth: Truth | None = None,
) -> Accuracy:
    """The measure of a graph's task: by what is on the images, else by the FP32 graph's own answers.

    Args:
        batches: the images to judge by; read again for every graph that is scored.
        postprocess: what the outputs mean; None is taken for a classifier.
        labels: of a classifier's images, in their order; None judges by agreement.
        truth: the same of a detector's or segmenter's. Where FP32 itself is never right by it, agreement
            judges.

    Raises:
        BbxError: the graph has no output that this task is judged by.
    """
    task = postprocess.task if postprocess else "classification"
    annotated = None if truth is None else _by_truth(model, batches, truth)
    if annotated is not None and annotated.baseline > 0:
        return annotated
    if task == "detection":
        return _matched_detections(model, batches, postprocess.score_threshold or 0.0 if postprocess else 0.0)
    output = _decisive(model)
    reference = _decisions(model, batches, output)
    if labels is not None and task == "classification":
        wanted = [np.asarray(labels)]

        def top1(graph: ModelProto) -> float:
            return _share_equal(wanted, [np.concatenate(_decisions(graph, batches, output))])

        return Accuracy("top1", len(labels), _share_equal(wanted, [np.concatenate(reference)]), top1)
    name = "pixel_agreement" if task == "segmentation" else "top1_agreement"

    def agreement(graph: ModelProto) -> float:
        return _share_equal(reference, _decisions(graph, batches, output))

    return Accuracy(name, sum(each.size for each in reference), 1.0, agreement)


def _by_truth(model: ModelProto, batches: Batches, truth: Truth) -> Accuracy:
    def score(graph: ModelProto) -> float:
        return truth.score(_answers(graph, batches))

    return Accuracy(truth.metric, len(truth.targets), score(model), score)


def _decisive(model: ModelProto) -> str:
    names: list[str] = [value.name for value in model.graph.output]
    for wanted in ("labels", "logits"):
        if wanted in names:
            return wanted
    return names[0]


def _decisions(model: ModelProto, batches: Batches, output: str) -> list[NDArray[np.uint16]]:
    """The class of each image or pixel; a batch's answers are dropped once it is decided."""
    decided = []
    with session(model, "an evaluation", exact=True) as opened:
        for batch in batches():
            (values,) = opened.run(batch, [output])
            if values.ndim < 2:
                raise BbxError(
                    f"The output {output!r}, of shape {values.shape}, has no classes to choose from."
                )
            decided.append((values if values.dtype.kind in "iu" else values.argmax(axis=1)).astype(np.uint16))
    return decided


def _share_equal(ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> float:
    equal = sum(int((one == other).sum()) for one, other in zip(ours, theirs, strict=True))
    return equal / max(sum(each.size for each in ours), 1)


def _matched_detections(model: ModelProto, batches: Batches, threshold: float) -> Accuracy:
    """The share of FP32's detections that are found again, less the share of new ones."""
    reference = list(_answers(model, batches))
    count = sum(int(each["num_detections"].sum()) for each in reference)

    def score(graph: ModelProto) -> float:
        allowed = DETECTION_TOLERANCES["bf16"]
        matched = extra = judged = 0
        for want, got in zip(reference, _answers(graph, batches), strict=True):
            found = match(want, got, iou=_LEAST_OVERLAP, score=allowed.score, threshold=threshold).distance
            matched += found.matched
            extra += found.extra
            judged += found.matched + found.missing
        return max(0.0, (matched - extra) / judged) if judged else float(extra == 0)

    return Accuracy("matched_detections", count, 1.0, score)


def _answers(model: ModelProto, batches: Batches) -> Iterator[Answers]:
    with session(model, "an evaluation", exact=True) as opened:
        for batch in batches():
            yield dict(zip(opened.outputs, opened.run(batch), strict=True))
