"""What is wrong with a sample of calibration data, found from previews alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bbx.calibration.data.previews import Preview
from bbx.calibration.data.source import Entry
from bbx.datasets.files import few

FEWEST = 32
"""Images below which a sample is called small: a quarter is held out to choose between methods, and of fewer
than eight one changed answer is more than 12 points. NVIDIA's guides call about 500 enough."""

NEAR = 6
"""Of the 128 bits of a look: how many may differ between two pictures of the same. Measured on 32 images of
scikit-image, scikit-learn and bbx: as JPEG of quality 50 or 20, halved, or with less contrast, nine in ten
differ by at most 5 bits from what they were; different photographs by 33 or more, a stereo pair by 19."""

_MANY = 0.05
"""Share of a sample that may look like another image before it is more than a note."""

_NAMED = 8
"""Images that a finding names, at most."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the data that its user should know.

    Attributes:
        kind: `too_few`, `near_duplicates`, `constant`, `overlap`, `classes`, `random` or `skipped`.
        severity: a `warning` is a reason not to trust the result.
        text: what was found.
        remedy: what to do about it.
        images: the first of those it is about.
    """

    kind: Literal["too_few", "near_duplicates", "constant", "overlap", "classes", "random", "skipped"]
    severity: Literal["note", "warning"]
    text: str
    remedy: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry and what it looks like."""

    entry: Entry
    preview: Preview


def findings(
    sample: Sequence[Seen],
    *,
    classes: Collection[str] = (),
    skipped: Sequence[str] = (),
    evaluation: Sequence[Seen] | None = None,
    random: bool = False,
) -> tuple[Finding, ...]:
    """Judge a sample.

    Args:
        sample: the images that are used.
        classes: the labels in its source.
        skipped: names of the images that could not be decoded.
        evaluation: the images on which the model will be judged; None where nobody said.
        random: the sample is noise, of which nothing else is said.
    """
    if random:
        return (_NOISE,)
    found = [
        _too_few(sample),
        _constant(sample),
        _near_duplicates(sample),
        _overlap(sample, evaluation or ()),
        _classes(sample, classes),
        _skipped(skipped),
    ]
    return tuple(finding for finding in found if finding is not None)


_NOISE = Finding(
    kind="random",
    severity="warning",
    text="This is noise and no calibration data: ranges measured on it say nothing about images.",
    remedy="Give real images.",
)


def _too_few(sample: Sequence[Seen]) -> Finding | None:
    if len(sample) >= FEWEST:
        return None
    return Finding(
        kind="too_few",
        severity="warning",
        text=f"{len(sample)} images are few: each moves the ranges, and the held-out part decides little.",
        remedy=f"Give {FEWEST} or more; 500 are customary.",
    )


def _constant(sample: Sequence[Seen]) -> Finding | None:
    names = [seen.entry.name for seen in sample if seen.preview.constant]
    if not names:
        return None
    return Finding(
        kind="constant",
        severity="warning",
        text=f"{len(names)} of {len(sample)} images have one colour: {few(names)}.",
        remedy="Leave them out, unless the model meets such images.",
        images=tuple(names[:_NAMED]),
    )


def _near_duplicates(sample: Sequence[Seen]) -> Finding | None:
    known = _Known(sample)
    twins = [(seen.entry.name, known.like(seen.preview, before=index)) for index, seen in enumerate(sample)]
    pairs = [f"{name} like {twin}" for name, twin in twins if twin is not None]
    if not pairs:
        return None
    return Finding(
        kind="near_duplicates",
        severity="warning" if len(pairs) > _MANY * len(sample) else "note",
        text=f"{len(pairs)} of {len(sample)} images look like an earlier one: {few(pairs)}.",
        remedy="Leave one of each: repeats add nothing, and one in both parts spoils the choice of a method.",
        images=tuple(name for name, twin in twins if twin is not None)[:_NAMED],
    )


def _overlap(sample: Sequence[Seen], evaluation: Sequence[Seen]) -> Finding | None:
    known = _Known(evaluation)
    twins = [(seen.entry.name, known.like(seen.preview)) for seen in sample]
    pairs = [f"{name} is {twin}" for name, twin in twins if twin is not None]
    if not pairs:
        return None
    return Finding(
        kind="overlap",
        severity="warning",
        text=f"{len(pairs)} of {len(sample)} images are, or look like, some of the evaluation: {few(pairs)}.",
        remedy="Calibrate on other images: the evaluation does not count for images that were calibrated on.",
        images=tuple(name for name, twin in twins if twin is not None)[:_NAMED],
    )


def _classes(sample: Sequence[Seen], classes: Collection[str]) -> Finding | None:
    missing = sorted(set(classes) - {label for seen in sample for label in seen.entry.labels})
    if not missing:
        return None
    return Finding(
        kind="classes",
        severity="note",
        text=f"{len(missing)} of {len(classes)} classes are not in the sample: {few(missing)}.",
        remedy="Use more images.",
    )


def _skipped(names: Sequence[str]) -> Finding | None:
    if not names:
        return None
    return Finding(
        kind="skipped",
        severity="note",
        text=f"{len(names)} images cannot be decoded and were skipped: {few(names)}.",
        remedy="Remove or replace them.",
        images=tuple(names[:_NAMED]),
    )


class _Known:
    """Images by content and by look."""

    def __init__(self, seen: Sequence[Seen]) -> None:
        self._names = [each.entry.name for each in seen]
        self._hashes: dict[str, int] = {}
        for index, each in enumerate(seen):
            self._hashes.setdefault(each.preview.sha256, index)
        self._with_look = [index for index, each in enumerate(seen) if each.preview.look is not None]
        self._looks = _bits(b"".join(each.preview.look or b"" for each in seen))

    def like(self, preview: Preview, *, before: int | None = None) -> str | None:
        """The name of the first image with the same content or nearly the same look; None without one.

        Args:
            before: only images before this position count.
        """
        end = len(self._names) if before is None else before
        same = self._hashes.get(preview.sha256, end)
        if same < end:
            return self._names[same]
        if preview.look is None:
            return None
        distances = np.bitwise_count(self._looks ^ _bits(preview.look)).sum(axis=1)
        near = (self._with_look[place] for place in np.flatnonzero(distances <= NEAR))
        return next((self._names[index] for index in near if index < end), None)


def _bits(looks: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(looks, np.uint64).reshape(-1, 2)
