"""Parity of detections: does the candidate find the same things?

Two lists of detections sorted by score exchange rows where scores are nearly equal, so comparing them element
by element says little. Here rows are paired by label and overlap (`bbx.exporter.matching`), and what has no
partner is counted. Masks and keypoints are then compared over the pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bbx.exporter import verify
from bbx.exporter.matching import DETECTIONS, DetectionDistance, Matching, malformed, match, pooled
from bbx.exporter.verify import Arrays, Case, Distance, Infer, Parity, Tolerance
from bbx.types import ParityVerdict, Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionTolerance(Tolerance):
    """How far detections may be from their reference; `rel_l2` and `cosine` are for masks and keypoints.

    Attributes:
        iou: least overlap of a matched pair.
        score: largest difference of a matched pair's scores.
        matched: least share of the reference's detections that is matched.
        extra: most detections without a partner, as a share of the reference's.
    """

    iou: float
    score: float
    matched: float
    extra: float


DETECTION_TOLERANCES: dict[Precision, DetectionTolerance] = {
    "fp32": DetectionTolerance(rel_l2=1e-2, cosine=0.999, iou=0.99, score=1e-3, matched=0.999, extra=0.001),
    "fp16": DetectionTolerance(rel_l2=4e-2, cosine=0.999, iou=0.9, score=0.03, matched=0.95, extra=0.05),
    "bf16": DetectionTolerance(rel_l2=3e-1, cosine=0.95, iou=0.8, score=0.1, matched=0.85, extra=0.15),
}
"""Per precision of the candidate. In FP32 only roundings differ: one detection in a thousand may fall on the
other side of a threshold, and a keypoint to a neighbouring cell of equal heat, which is why its `rel_l2` is
wider than a classifier's. In FP16 and BF16 the convolutions carry 11 and 8 significant bits and the boxes are
decoded in FP32: logits move by some hundredths and tenths, so do scores, at most a quarter of that where the
sigmoid is steepest; suppression then prefers another of two near-equal boxes, which is a different box of the
same thing, and some detections more."""


CLOSE = "Random weights score neighbouring boxes alike, and rounding decides between them:"

ENOUGH = 100
"""Detections among which one may differ in any case: two boxes whose overlap is the threshold of suppression
to the last bit are one detection or two, by the order of a sum."""


def judge(
    distances: Sequence[DetectionDistance], tolerance: DetectionTolerance
) -> tuple[ParityVerdict, tuple[str, ...]]:
    """The verdict on several batches together, and the reasons for any verdict but `pass`."""
    found = pooled(distances)
    judged = found.matched + found.missing
    if found.malformed:
        return "fail", found.malformed
    if not found.reference:
        return "inconclusive", ("The reference found nothing, so agreeing with it proves nothing.",)
    if found.missing <= _at_most(1 - tolerance.matched, judged) and found.extra <= _at_most(
        tolerance.extra, judged
    ):
        if judged:
            return "pass", ()
        return "inconclusive", ("Every detection of the reference is borderline.",)
    text = (
        f"{found.matched} of {judged} detections are matched (at least {tolerance.matched:.1%}) and "
        f"{found.extra} are extra (at most {tolerance.extra:.1%})."
    )
    if found.worst_iou is not None:
        text += (
            f" Between partners IoU falls to {found.worst_iou:.4f} (at least {tolerance.iou}) and scores "
            f"differ by up to {found.worst_score:.1e} (at most {tolerance.score})."
        )
    return "fail", (text,)


def _at_most(share: float, count: int) -> int:
    """How many of `count` detections that share is; from `ENOUGH` on, one at least."""
    return max(math.floor(share * count + 1e-9), 1 if count >= ENOUGH else 0)


def compare_detections(
    cases: Sequence[Case],
    references: Sequence[Arrays],
    infer: Infer,
    tolerance: DetectionTolerance,
    *,
    against: str,
    threshold: float = 0.0,
    suppression: float | None = None,
    close: float = 0.0,
) -> Parity:
    """Run the candidate on every case and judge its detections against the references'.

    Args:
        cases: the inputs.
        references: the reference's outputs, one mapping a case: those that `match` names, and others. What
            has a row for each detection (masks, keypoints) is compared over the matched pairs.
        infer: the candidate.
        against: what the reference is, for the report.
        threshold, suppression: as for `match`.
        close: share of the detections that are so close to each other that a rounding decides between them.
            Where no more are missing, and no more extra, that proves nothing.

    Returns:
        As `bbx.exporter.verify.compare`; each case also has the counts, as `detections`.
    """
    rows: list[dict[str, Any]] = []
    found: list[DetectionDistance] = []
    too_far: list[str] = []
    for case, reference in zip(cases, references, strict=True):
        outputs = infer(case.feeds)
        matching = match(
            reference,
            outputs,
            iou=tolerance.iou,
            score=tolerance.score,
            threshold=threshold,
            suppression=suppression,
        )
        distances = _distances(reference, outputs, matching)
        found.append(matching.distance)
        too_far += _too_far(case, distances, _beside(reference), tolerance)
        counts = matching.distance.to_json()
        rows.append({"batch": case.batch, "input": case.input, "outputs": distances, "detections": counts})
    nothing = _proves_nothing(references)
    verdict, reasons = judge(found, tolerance)
    if verdict == "fail" and close and not too_far:
        looser = replace(tolerance, matched=1 - close, extra=close)
        if judge(found, looser)[0] == "pass":
            verdict, reasons = "inconclusive", (f"{CLOSE} {reasons[0]}",)
    if nothing:
        verdict = "inconclusive"
    elif too_far and verdict == "pass":
        verdict = "fail"
    return Parity(verdict, (*nothing, *reasons, *too_far), tolerance, tuple(rows), against)


def _too_far(case: Case, distances: dict[str, Distance], names: list[str], tolerance: Tolerance) -> list[str]:
    return [
        f"Output {name!r} on {case.input} at batch {case.batch}, over the matched detections: "
        f"relative L2 {distances[name].rel_l2:.2e} (at most {tolerance.rel_l2:.0e}), "
        f"cosine {distances[name].cosine:.6f} (at least {tolerance.cosine})."
        for name in names
        if not distances[name].within(tolerance)
    ]


def _beside(reference: Arrays) -> list[str]:
    """Outputs of the reference that say more about each detection."""
    rows = reference["scores"].shape
    return [name for name, value in reference.items() if value.shape[:2] == rows and name not in DETECTIONS]


def _distances(reference: Arrays, candidate: Arrays, matching: Matching) -> dict[str, Distance]:
    """How far each output is: over the matched pairs where it has a row for each detection."""
    if matching.distance.malformed:
        return dict.fromkeys(reference, verify.FAR)
    image, ours, theirs = matching.pairs.T
    rows = reference["scores"].shape
    return {
        name: verify.distance(want[image, ours], candidate[name][image, theirs])
        if want.shape[:2] == rows
        else verify.distance(want, candidate[name])
        for name, want in reference.items()
    }


def _proves_nothing(references: Sequence[Arrays]) -> tuple[str, ...]:
    """Why the references are no evidence, beyond having found nothing, which `judge` says."""
    odd = [f"The reference is malformed: {text}" for outputs in references for text in malformed(outputs)]
    if odd or not any(outputs["num_detections"].any() for outputs in references):
        return tuple(dict.fromkeys(odd))
    return verify.proves_nothing(
        [{name: outputs[name] for name in ("boxes", "scores")} for outputs in references]
    )
