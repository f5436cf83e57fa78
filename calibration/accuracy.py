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
from bbx.exporter.detections import DETECTION_TOLERANCES
from bbx.exporter.matching import match
from bbx.types import Postprocess

Answers = Mapping[str, NDArray[Any]]

TOP1 = "top1"
"""Name of the share of a classifier's images whose label it gives."""

_LEAST_OVERLAP = 0.5
"""Of two detections that are the same thing, as in mAP@0.5."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A measure of the task on a fixed set of images.

    Attributes:
        name: `top1`, `mAP`, `mIoU`, `top1_agreement`, `pixel_agreement` or `matched_detections`; of a network
            that has no classes to choose from `closeness`, 1 less the relative L2 distance of its numbers.
        of: images, pixels, detections or numbers that are judged.
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
        labels: of a classifier's images, in their order; None where they are not known.
        truth: the same of a detector's or segmenter's.

    Returns:
        By labels or truth where there are some and FP32 is ever right by them; else by agreement.
    """
    task = postprocess.task if postprocess else "classification"
    annotated = None if truth is None else _by_truth(model, batches, truth)
    if annotated is not None and annotated.baseline > 0:
        return annotated
    if task == "detection":
        return _matched_detections(model, batches, postprocess.score_threshold or 0.0 if postprocess else 0.0)
    output = _decisive(model)
    example = next(_answers(model, batches))[output]
    if example.dtype.kind not in "iu" and (example.ndim < 2 or example.shape[1] == 1):
        return _closeness(model, batches, output)
    if labels is not None and task == "classification" and example.ndim == 2:
        annotated = _by_labels(model, batches, labels)
        if annotated.baseline > 0:
            return annotated
    reference = _decisions(model, batches, output)
    name = "pixel_agreement" if task == "segmentation" else "top1_agreement"

    def agreement(graph: ModelProto) -> float:
        return _share_equal(reference, _decisions(graph, batches, output))

    return Accuracy(name, sum(each.size for each in reference), 1.0, agreement)


def _by_truth(model: ModelProto, batches: Batches, truth: Truth) -> Accuracy:
    def score(graph: ModelProto) -> float:
        return truth.score(_answers(graph, batches))

    return Accuracy(truth.metric, len(truth.targets), score(model), score)


def _by_labels(model: ModelProto, batches: Batches, labels: Sequence[int]) -> Accuracy:
    wanted, output = [np.asarray(labels)], _decisive(model)

    def top1(graph: ModelProto) -> float:
        return _share_equal(wanted, [np.concatenate(_decisions(graph, batches, output))])

    return Accuracy(TOP1, len(labels), top1(model), top1)


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
            decided.append((values if values.dtype.kind in "iu" else values.argmax(axis=1)).astype(np.uint16))
    return decided


def _closeness(model: ModelProto, batches: Batches, output: str) -> Accuracy:
    """Of a regressor, or of one number that a threshold nobody told us decides about."""
    reference = [each[output].astype(np.float64) for each in _answers(model, batches)]
    length = np.sqrt(sum(float(np.sum(each**2)) for each in reference))

    def score(graph: ModelProto) -> float:
        pairs = zip(reference, _answers(graph, batches), strict=True)
        apart = np.sqrt(sum(float(np.sum((got[output] - want) ** 2)) for want, got in pairs))
        return max(0.0, 1.0 - float(apart / max(length, np.finfo(np.float64).tiny)))

    return Accuracy("closeness", sum(each.size for each in reference), 1.0, score)


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
