"""Which comparison an artefact is judged by: that of its task, where the manifest says what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bbx.exporter.detections import CLOSE, DETECTION_TOLERANCES, DetectionTolerance, compare_detections
from bbx.exporter.verify import TOLERANCES, Arrays, Case, Infer, Parity, Tolerance, compare
from bbx.types import Postprocess, Precision

FLIPS = 0.02
"""Of the FP32 detections of random weights, the share that may be missing, and the share that may be extra,
before an artefact counts as wrong. Two frameworks round differently, and now and then that takes one of a
thousand proposals for another, and up to five boxes of an image with it: Faster R-CNNs with MobileNet-V3
missed 5 of 1380 and 4 of 1273 boxes on 16 photographs."""


def judge(
    cases: Sequence[Case],
    references: Sequence[Arrays],
    infer: Infer,
    precision: Precision,
    postprocess: Postprocess | None,
    *,
    against: str,
    random_weights: bool = False,
    tolerance: Tolerance | None = None,
) -> Parity:
    """Run the candidate on every case and judge it against the references, by what its outputs mean.

    Detections are matched by label and overlap: sorted lists of them cannot be compared element by element,
    since two boxes of nearly one score change places for a rounding error. All else is compared so.

    Args:
        precision: of the candidate. INT8 and FP8 have no tolerance of their own and are held to FP16's: they
            are compared with their own Q/DQ graph.
        postprocess: from the manifest; None where nobody said what the outputs are.
        against: what the reference is, for the report.
        random_weights: nobody trained the network. Its detections are then too close to each other for a
            smaller type to agree on them, and where they differ that proves nothing: `inconclusive`. In FP32
            that goes for `FLIPS` of them.
        tolerance: another one than the precision's; of a detector, a `DetectionTolerance`.
    """
    held_to: Precision = precision if precision in TOLERANCES else "fp16"
    if postprocess is not None and postprocess.task == "detection":
        parity = compare_detections(
            cases,
            references,
            infer,
            tolerance if isinstance(tolerance, DetectionTolerance) else DETECTION_TOLERANCES[held_to],
            against=against,
            threshold=postprocess.score_threshold or 0.0,
            suppression=postprocess.iou_threshold,
            close=FLIPS if random_weights and held_to == "fp32" else 0.0,
        )
        well_formed = not any(case["detections"]["malformed"] for case in parity.cases)
        if parity.verdict == "fail" and well_formed and random_weights and held_to != "fp32":
            reasons = (f"{CLOSE} {parity.reasons[0]}", *parity.reasons[1:])
            return replace(parity, verdict="inconclusive", reasons=reasons)
        return parity
    return compare(cases, references, infer, tolerance or TOLERANCES[held_to], against=against)
