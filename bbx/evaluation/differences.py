"""How sure the difference of two artefacts on the same images is: a paired bootstrap over the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bbx import process
from bbx.evaluation.tally import Tally

SAMPLES = 1000
"""Samples of the images that an interval is made from."""

_COVERED = (2.5, 97.5)
"""Percentiles of the differences: an interval of 95 %."""

_BLOCK = 4_000_000
"""Counts that are in memory at once: images times samples."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of one artefact less that of another.

    Attributes:
        value: over all images.
        ci95: its interval of 95 % (Efron and Tibshirani, 1993, section 13.3: percentiles of the bootstrap);
            None where the metric is not resampled, or in too few samples.
    """

    value: float
    ci95: tuple[float, float] | None


def differences(
    base: Tally[Any], others: Sequence[Tally[Any]], *, seed: int, samples: int = SAMPLES
) -> list[dict[str, Difference]]:
    """Every metric of each tally less that of the first, on the same images.

    The images are drawn again and again with replacement, the same ones for both: what they have in common,
    such as hard images, does not widen the interval.

    Args:
        base: what the others are compared with.
        seed: of what is drawn.
    """
    if not others:
        return []
    whole = base.result()
    drawn = [_resampled(tally, seed, samples) for tally in (base, *others)]
    found = []
    for tally, theirs in zip(others, drawn[1:], strict=True):
        values = tally.result()
        found.append(
            {
                name: Difference(value - whole[name], _interval(theirs.get(name), drawn[0].get(name)))
                for name, value in values.items()
                if name in whole
            }
        )
    return found


def _resampled(tally: Tally[Any], seed: int, samples: int) -> dict[str, np.ndarray[Any, Any]]:
    """The metrics of a tally over samples that depend on nothing but the seed and the number of images."""
    generator = np.random.default_rng(seed)
    images = len(tally)
    step = max(1, min(samples, _BLOCK // max(images, 1)))
    parts: list[dict[str, np.ndarray[Any, Any]]] = []
    for start in range(0, samples, step):
        process.progress("intervals", start / samples)
        rows = generator.integers(0, images, (min(step, samples - start), images))
        parts.append(tally.resampled(np.stack([np.bincount(row, minlength=images) for row in rows])))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _interval(
    ours: np.ndarray[Any, Any] | None, theirs: np.ndarray[Any, Any] | None
) -> tuple[float, float] | None:
    if ours is None or theirs is None:
        return None
    apart = ours - theirs
    apart = apart[np.isfinite(apart)]
    # Where a sample has no answer, as of an mAP without annotations, few are left to say anything.
    if len(apart) < len(ours) // 2:
        return None
    low, high = np.percentile(apart, _COVERED)
    return float(low), float(high)
