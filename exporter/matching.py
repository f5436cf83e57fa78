"""Which detections of two lists are the same, by label, overlap and score, wherever their rows stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bbx.exporter.verify import Arrays

NO_LABEL = -1
"""Label of a row that holds no detection, as `bbx.models.detection` writes it."""

DETECTIONS = ("boxes", "scores", "labels", "num_detections")
"""Outputs that every detector has; it may have more."""

PARTNER_IOU = 0.5
"""Two rows of one label that overlap more than this are taken for the same thing, perhaps moved too far."""

SAME_CORNER = 1e-3
"""Pixels. Boxes whose corners all lie this close are the same, however thin: at 1,333 pixels a few roundings
in FP32 are as much, which is a large share of a box that the image's border has cut to a sliver."""

SAME_SHARE = 1e-4
"""As `SAME_CORNER`, as a share of the longer side, by which a box is decoded: what FP32 may lose in any
output. A box that was cut to nothing at all overlaps not even itself."""


SAME_OVERLAP = 1e-3
"""IoU. Two boxes whose overlap lies this close to the threshold of suppression are one detection or two by a
rounding: torchvision keeps classes apart by moving their boxes apart, for COCO's as far as 120,000 pixels,
where steps of FP32 are 0.008 pixels, and change the overlap of boxes 16 pixels wide by as much."""


@dataclass(frozen=True, slots=True)
class DetectionDistance:
    """What pairing the detections of a batch gave.

    A matched pair has one label and keeps the tolerance. `reference` is `matched + missing` and those of
    `borderline` that the candidate lacks; `candidate` is `matched + extra` and the other borderline ones.

    Attributes:
        reference: detections of the reference.
        candidate: detections of the candidate.
        matched: pairs.
        missing: detections of the reference that have no match.
        extra: detections of the candidate that have no match.
        borderline: detections without any partner that one side had reason to leave out: the score is within
            the tolerance of the threshold, or of the lowest one of a list that is full; or it overlaps a
            better one of its label by the threshold of suppression, to within `SAME_OVERLAP`.
        worst_iou: smallest overlap of two partners, matched or too far apart; None without any.
        worst_score: largest difference of their scores.
        malformed: what is wrong with the candidate's outputs; when anything is, nothing was paired.
    """

    reference: int
    candidate: int = 0
    matched: int = 0
    missing: int = 0
    extra: int = 0
    borderline: int = 0
    worst_iou: float | None = None
    worst_score: float | None = None
    malformed: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a document shows it."""
        return {**asdict(self), "malformed": list(self.malformed)}


@dataclass(frozen=True, slots=True)
class Matching:
    """A distance, and which rows it is about.

    Attributes:
        distance: the counts.
        pairs: int64 [matched, 3]: image, row of the reference, row of the candidate.
    """

    distance: DetectionDistance
    pairs: NDArray[np.int64]


class _Limits(NamedTuple):
    """The arguments of `match`."""

    iou: float
    score: float
    threshold: float
    suppression: float | None


@dataclass(frozen=True, slots=True)
class _Found:
    """The detections of one image; `full` when there was no room for another."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    full: bool

    def may_lack(self, others: _Found, limits: _Limits) -> NDArray[np.bool_]:
        """Which of these detections may be left out here because a score or an overlap was rounded."""
        cut = max(limits.threshold, float(self.scores.min(initial=1.0))) if self.full else limits.threshold
        faint: NDArray[np.bool_] = others.scores <= cut + limits.score
        if limits.suppression is None:
            return faint
        near = np.abs(_overlaps(others.boxes, self.boxes) - limits.suppression) <= SAME_OVERLAP
        alike = others.labels[:, None] == self.labels[None, :]
        better = self.scores[None, :] + limits.score >= others.scores[:, None]
        suppressed: NDArray[np.bool_] = (near & alike & better).any(axis=1)
        return faint | suppressed

    def without(self, rows: NDArray[np.int64]) -> _Found:
        """The other detections."""
        return _Found(
            np.delete(self.boxes, rows, axis=0),
            np.delete(self.scores, rows),
            np.delete(self.labels, rows),
            self.full,
        )


def malformed(outputs: Arrays, *, like: Arrays | None = None) -> tuple[str, ...]:
    """What keeps outputs from being detections; empty when they are well-formed.

    Args:
        outputs: by name; wanted are `boxes` [B, D, 4], `scores` [B, D], `labels` [B, D] and
            `num_detections` [B]. Scores fall; rows beyond the count hold zeros and the label -1.
        like: outputs whose names and shapes these must have.
    """
    absent = [name for name in (DETECTIONS if like is None else like) if name not in outputs]
    if absent:
        return tuple(f"There is no output {name!r}." for name in absent)
    rows = outputs["scores"].shape
    if len(rows) != 2:
        return (f"Output 'scores' has the shape {list(rows)}, not [images, detections].",)
    shapes = {"boxes": (*rows, 4), "scores": rows, "labels": rows, "num_detections": rows[:1]}
    if like is not None:
        shapes = {name: value.shape for name, value in like.items()}
    odd = [
        f"Output {name!r} has the shape {list(outputs[name].shape)}, not {list(shape)}."
        for name, shape in shapes.items()
        if outputs[name].shape != shape
    ]
    return tuple(odd) or _odd_values(outputs)


def _odd_values(outputs: Arrays) -> tuple[str, ...]:
    boxes, scores, labels = (np.asarray(outputs[name]) for name in ("boxes", "scores", "labels"))
    count = np.asarray(outputs["num_detections"])
    infinite = [
        f"Output {name!r} is not finite."
        for name, values in outputs.items()
        if np.asarray(values).dtype.kind == "f" and not np.isfinite(values).all()
    ]
    if infinite:
        return tuple(infinite)
    if ((count < 0) | (count > scores.shape[1])).any():
        return (f"Output 'num_detections' is {count.tolist()}, and there are {scores.shape[1]} rows.",)
    used = np.arange(scores.shape[1]) < count[:, None]
    padding_filled = scores[~used].any() or boxes[~used].any()
    problems = {
        f"A row within num_detections has the label {NO_LABEL}.": (labels[used] == NO_LABEL).any(),
        f"A row beyond num_detections has a label other than {NO_LABEL}.": (labels[~used] != NO_LABEL).any(),
        "A row beyond num_detections has a score or a box other than zero.": padding_filled,
        "The scores do not fall.": (np.diff(scores.astype(np.float64), axis=1) > 0).any(),
    }
    return tuple(text for text, found in problems.items() if found)


def match(
    reference: Arrays,
    candidate: Arrays,
    *,
    iou: float = 0.99,
    score: float = 1e-3,
    threshold: float = 0.0,
    suppression: float | None = None,
) -> Matching:
    """Pair the detections of a batch, image by image and label by label.

    Every row has at most one partner. Pairs within the tolerance are made first, then by falling IoU.

    Args:
        reference: `boxes` [B, D, 4], `scores` [B, D], `labels` [B, D], `num_detections` [B] and perhaps
            others; well-formed.
        candidate: the same of the candidate; may be malformed.
        iou: least overlap of a match.
        score: largest difference in score of a match.
        threshold: the score below which both sides drop boxes.
        suppression: the overlap above which both sides drop the lesser of two boxes of a label; None where
            nobody says.
    """
    wrong = malformed(candidate, like=reference)
    if wrong:
        total = int(np.sum(reference["num_detections"]))
        distance = DetectionDistance(reference=total, missing=total, malformed=wrong)
        return Matching(distance, np.empty((0, 3), np.int64))
    limits = _Limits(iou, score, threshold, suppression)
    matchings = [
        _match_image(_found(reference, image), _found(candidate, image), limits)
        for image in range(len(reference["scores"]))
    ]
    pairs = [np.insert(pairs, 0, image, axis=1) for image, (_, pairs) in enumerate(matchings)]
    return Matching(pooled([distance for distance, _ in matchings]), np.concatenate(pairs))


def _found(outputs: Arrays, image: int) -> _Found:
    count = int(outputs["num_detections"][image])
    return _Found(
        np.asarray(outputs["boxes"][image, :count], np.float64),
        np.asarray(outputs["scores"][image, :count], np.float64),
        np.asarray(outputs["labels"][image, :count], np.int64),
        full=count == outputs["scores"].shape[1],
    )


def _match_image(
    reference: _Found, candidate: _Found, limits: _Limits
) -> tuple[DetectionDistance, NDArray[np.int64]]:
    """The counts of one image, and int64 [matched, 2]: row of the reference, row of the candidate."""
    overlap = _overlaps(reference.boxes, candidate.boxes)
    apart = np.abs(reference.scores[:, None] - candidate.scores[None, :])
    within = (overlap >= limits.iou) & (apart <= limits.score)
    alike = reference.labels[:, None] == candidate.labels[None, :]
    pairs = _partners(alike & (within | (overlap > PARTNER_IOU)), within, overlap)
    rows, columns = pairs.T
    matched = within[rows, columns]
    alone_here, alone_there = reference.without(rows), candidate.without(columns)
    excused_here = int(candidate.may_lack(alone_here, limits).sum())
    excused_there = int(reference.may_lack(alone_there, limits).sum())
    too_far = int((~matched).sum())
    distance = DetectionDistance(
        reference=len(reference.scores),
        candidate=len(candidate.scores),
        matched=int(matched.sum()),
        missing=len(alone_here.scores) - excused_here + too_far,
        extra=len(alone_there.scores) - excused_there + too_far,
        borderline=excused_here + excused_there,
        worst_iou=float(overlap[rows, columns].min()) if len(pairs) else None,
        worst_score=float(apart[rows, columns].max()) if len(pairs) else None,
    )
    return distance, pairs[matched]


def pooled(distances: Sequence[DetectionDistance]) -> DetectionDistance:
    """The distance over several images or batches at once."""
    counts = ("reference", "candidate", "matched", "missing", "extra", "borderline")
    overlap = [found.worst_iou for found in distances if found.worst_iou is not None]
    apart = [found.worst_score for found in distances if found.worst_score is not None]
    return DetectionDistance(
        **{name: sum(getattr(found, name) for found in distances) for name in counts},
        worst_iou=min(overlap, default=None),
        worst_score=max(apart, default=None),
        malformed=tuple(dict.fromkeys(text for found in distances for text in found.malformed)),
    )


def _overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of every box of [N, 4] with every box of [M, 4]: [N, M]; 1 where all corners are the same."""
    longest = np.maximum(_longer_sides(first)[:, None], _longer_sides(second)[None])
    ours, theirs = first[:, None], second[None]
    sides = np.minimum(ours[..., 2:], theirs[..., 2:]) - np.maximum(ours[..., :2], theirs[..., :2])
    common = sides.clip(min=0).prod(axis=-1)
    union = _areas(ours) + _areas(theirs) - common
    ratio = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    allowed = np.maximum(SAME_CORNER, SAME_SHARE * longest)
    same = (np.abs(ours - theirs) <= allowed[..., None]).all(axis=-1)
    return np.where(same, 1.0, ratio)


def _longer_sides(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    longer: NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    return longer


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)
    return areas


def _partners(
    allowed: NDArray[np.bool_], preferred: NDArray[np.bool_], overlap: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Pair rows with columns, greedily: those preferred first, then by falling overlap.

    After suppression two boxes of one label do not both overlap a third nearly fully, so that greedy pairing
    is the best one.

    Args:
        allowed: [N, M], which pairs there may be.
        preferred: [N, M], which of them come first.
        overlap: [N, M].

    Returns:
        int64 [pairs, 2]: row and column; none stands in two pairs.
    """
    rows, columns = np.nonzero(allowed)
    order = np.lexsort((-overlap[rows, columns], ~preferred[rows, columns]))
    column_of: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in column_of and column not in taken:
            column_of[row] = column
            taken.add(column)
    return np.array(sorted(column_of.items()), np.int64).reshape(-1, 2)
