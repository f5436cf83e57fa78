"""How sure a difference is: against what theory says of it, and whatever the seed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bbx.evaluation.differences import differences
from bbx.evaluation.metrics import Tally, tally_of
from bbx.outputs import Classified


def _tally(right: NDArray[np.bool_]) -> Tally[object]:
    """Of a classifier of two classes that is right where it is said to be."""
    tally = tally_of("classification", 2)
    for each in right:
        probabilities = np.array([0.8, 0.2] if each else [0.2, 0.8])
        tally.update([Classified(probabilities, np.argsort(-probabilities))], [0])
    return tally


def test_the_interval_is_that_of_paired_differences() -> None:
    """Of 400 images 40 are lost and 10 won; the standard error is that of the differences of images."""
    base = np.ones(400, np.bool_)
    base[:10] = False
    other = base.copy()
    other[:10] = True
    other[10:50] = False
    [found] = differences(_tally(base), [_tally(other)], seed=0)
    apart = other.astype(float) - base.astype(float)
    assert found["top1"].value == pytest.approx(apart.mean())
    error = apart.std() / np.sqrt(400)
    assert found["top1"].ci95 is not None
    low, high = found["top1"].ci95
    assert low == pytest.approx(apart.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(apart.mean() + 1.96 * error, abs=0.15 * error)


def test_what_both_do_alike_does_not_widen_the_interval() -> None:
    """Half of the images are too hard for both: on single samples that is noise, on pairs it is none."""
    base = np.arange(200) % 2 == 0
    [found] = differences(_tally(base), [_tally(base)], seed=0)
    assert found["top1"].ci95 == (0.0, 0.0)


def test_without_another_there_is_no_difference() -> None:
    assert differences(_tally(np.ones(3, np.bool_)), [], seed=0) == []
