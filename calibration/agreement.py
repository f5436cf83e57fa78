"""How far a graph in fewer bits is from its reference: tolerance, one number to compare by, the task's
metric."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from bbx.calibration.low_precision import HALF
from bbx.exporter.detections import DETECTION_TOLERANCES, DetectionTolerance
from bbx.exporter.emulate import emulated_from_typed
from bbx.exporter.judging import judge
from bbx.exporter.onnx_graph import tensor_infos
from bbx.exporter.onnx_io import save_onnx
from bbx.exporter.verify import TOLERANCES, Arrays, Case, Infer, Parity, Tolerance
from bbx.runners.base import Runner
from bbx.runners.ort import OrtRunner
from bbx.types import Postprocess, Precision

EIGHT_BIT_TOLERANCE = Tolerance(rel_l2=0.2, cosine=0.98, agreement=0.95)
"""Of INT8 and FP8 against a float reference. Networks of the EfficientNet-Lite class, quantised without
refinement by the usual methods, were measured at a relative L2 of 0.12 to 0.16, where one answer in seven
changes; what is farther than this is a fault and no rounding. The cosine follows from it: 1 - rel_l2² / 2."""

EIGHT_BIT_DETECTIONS = DetectionTolerance(
    rel_l2=3e-1, cosine=0.95, iou=0.5, score=0.2, matched=0.95, extra=0.05
)
"""Of INT8 and FP8: the same things are found, as mAP at an overlap of 0.5 counts them. Eight bits move boxes:
a trained Faster R-CNN lost 0.6 points of that mAP, while a quarter of its boxes overlapped FP32's by less
than 0.8, but 98 % of them by more than 0.5, at scores within 0.1."""

NOISE = "noise"
"""What `bbx.pipeline.cases` calls inputs that are no images."""


def tolerance_of(
    precision: Precision, postprocess: Postprocess | None, rel_l2: float | None = None
) -> Tolerance:
    """How far a graph of this precision may be from a float reference.

    Args:
        rel_l2: another relative L2, and the cosine that follows from it, 1 - rel_l2² / 2; of a detector, the
            share of detections that may be missing, and that may be extra.
    """
    if postprocess is not None and postprocess.task == "detection":
        found = DETECTION_TOLERANCES.get(precision, EIGHT_BIT_DETECTIONS)
        return found if rel_l2 is None else replace(found, matched=1 - rel_l2, extra=rel_l2)
    allowed = TOLERANCES.get(precision, EIGHT_BIT_TOLERANCE)
    return allowed if rel_l2 is None else replace(allowed, rel_l2=rel_l2, cosine=1 - rel_l2**2 / 2)


def excused(parity: Parity, *, random_weights: bool, noise: bool) -> Parity:
    """The same verdict, but where a failure in eight bits proves nothing: then it is `inconclusive`.

    A graph whose answers are not finite, or of another shape, is broken whatever its weights.

    Args:
        random_weights: nobody trained the network.
        noise: it was calibrated on noise.
    """
    if parity.verdict != "fail" or not (random_weights or noise) or not comparable(parity):
        return parity
    why = "Random weights have no answer" if random_weights else "Noise calibrates for no image"
    return replace(parity, verdict="inconclusive", reasons=(f"{why} to keep: {parity.reasons[0]}",))


def comparable(parity: Parity) -> bool:
    """Whether no output is infinitely far; see `bbx.exporter.verify.FAR`."""
    return not any(np.isinf(found.max_abs) for case in parity.cases for found in case["outputs"].values())


def distance_of(parity: Parity) -> float:
    """One number for how far a candidate is: infinite where it cannot be compared.

    Of a detector the share of detections that are missing or extra; else the largest relative L2 of an
    output.
    """
    if isinstance(parity.tolerance, DetectionTolerance):
        found = [case["detections"] for case in parity.cases if "detections" in case]
        if any(each["malformed"] for each in found):
            return float("inf")
        judged = sum(each["matched"] + each["missing"] for each in found)
        return float(sum(each["missing"] + each["extra"] for each in found) / max(judged, 1))
    return float(max(each.rel_l2 for case in parity.cases for each in case["outputs"].values()))


@contextmanager
def opened(model: ModelProto) -> Iterator[Runner]:
    """A graph in ONNX Runtime on the CPU, with the numbers that it says.

    Q/DQ nodes are computed as they are written. 16 bits are emulated: ONNX Runtime computes FP16 graphs in
    FP32 on a CPU and takes the casts between nodes out, so that it sees neither rounding nor overflow, and
    has no BF16.

    Raises:
        ArtifactError: ONNX Runtime refuses the graph.
        ExportError: it cannot be emulated.
    """
    is_half = any(info.elem_type in HALF for info in tensor_infos(model).values())
    runnable = emulated_from_typed(model) if is_half else model
    with tempfile.TemporaryDirectory(prefix="bbx-graph-") as folder:
        path = Path(folder) / "graph.onnx"
        save_onnx(runnable, path)
        with OrtRunner(path, exact=True) as runner:
            yield runner


def typed_infer(runner: Runner) -> Infer:
    """Inference that takes feeds of any float type, as a graph with 16-bit inputs needs it."""
    dtypes = {spec.name: spec.dtype for spec in runner.inputs}

    def infer(feeds: Arrays) -> Arrays:
        return runner.infer({name: feed.astype(dtypes[name], copy=False) for name, feed in feeds.items()})

    return infer


def replayed(outputs: Sequence[Arrays]) -> Infer:
    """Inference that was done before: gives the outputs of the cases in their order."""
    turn = iter(outputs)
    return lambda _: next(turn)


@dataclass(frozen=True, slots=True)
class Reference:
    """What is right: the cases and the reference's outputs on them.

    Attributes:
        against: what the reference is, for the report.
        postprocess: what the outputs mean; None where nobody said.
    """

    cases: tuple[Case, ...]
    outputs: tuple[Arrays, ...]
    against: str
    postprocess: Postprocess | None = None

    def judge(
        self, infer: Infer, precision: Precision, tolerance: Tolerance, *, random_weights: bool = False
    ) -> Parity:
        """Compare a candidate; see `bbx.exporter.judging.judge`."""
        return judge(
            self.cases,
            self.outputs,
            infer,
            precision,
            self.postprocess,
            against=self.against,
            random_weights=random_weights,
            tolerance=tolerance,
        )


@dataclass(frozen=True, slots=True)
class Metric:
    """How well two answers agree in the terms of the task.

    Attributes:
        name: `top1_agreement`, `pixel_agreement` or `matched_detections`.
        value: share that agrees, 0 to 1.
        of: images, pixels or detections that were compared.
    """

    name: str
    value: float
    of: int


def task_metric(reference: Reference, outputs: Sequence[Arrays], parity: Parity) -> Metric | None:
    """Agreement on the images, or on the noise where there are none; None where the outputs' meaning is not
    known.

    Args:
        outputs: the candidate's, one mapping a case.
        parity: of those outputs.
    """
    if isinstance(parity.tolerance, DetectionTolerance):
        found = [case["detections"] for case in parity.cases if "detections" in case]
        matched, missing = (sum(each[key] for each in found) for key in ("matched", "missing"))
        return Metric("matched_detections", matched / max(matched + missing, 1), matched + missing)
    task = reference.postprocess.task if reference.postprocess else None
    pictures = [number for number, case in enumerate(reference.cases) if case.input != NOISE]
    numbers = pictures or range(len(reference.cases))
    name = _labelled(reference.outputs[0], segmentation=task == "segmentation")
    if task not in ("classification", "segmentation") or name is None:
        return None
    pairs = [(_labels(reference.outputs[n][name]), _labels(outputs[n][name])) for n in numbers]
    if any(ours.shape != theirs.shape for ours, theirs in pairs):
        return None
    same = sum(int((ours == theirs).sum()) for ours, theirs in pairs)
    count = sum(ours.size for ours, _ in pairs)
    return Metric("pixel_agreement" if task == "segmentation" else "top1_agreement", same / count, count)


def _labelled(outputs: Arrays, *, segmentation: bool) -> str | None:
    names = [name for name in ("logits", "labels") if name in outputs]
    return names[0] if names and (segmentation or outputs[names[0]].ndim == 2) else None


def _labels(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype.kind in "iu" else np.argmax(values, axis=1)
