"""Histograms of magnitudes: exact counts in narrow bins, whatever the order, and honest about NaN."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bbx.calibration.histograms import Histogram, edges
from tests.calibration.graphs import normal

BIN = 1 / 512
"""Width of a bin, relative to the lower end of its octave."""


def _of(*arrays: NDArray[np.float32]) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(array)
    return histogram


def _facts(histogram: Histogram) -> tuple[object, ...]:
    return (
        histogram.counts.tobytes(),
        histogram.zeros,
        histogram.largest,
        histogram.negative,
        histogram.finite,
    )


def test_counts_are_numpys_over_the_same_edges() -> None:
    values = normal(300_000) * np.exp2(normal(300_000, seed=1)).astype(np.float32)
    histogram = _of(values)
    limits = edges(np.arange(histogram.counts.size + 1))
    # NumPy's last bin is closed above, and here nothing reaches that edge.
    assert limits[-1] > np.abs(values).max()
    wanted, _ = np.histogram(np.abs(values).astype(np.float64), limits)
    np.testing.assert_array_equal(histogram.counts, wanted)
    assert histogram.total == values.size
    assert histogram.largest == np.abs(values).max()


def test_bins_have_one_relative_width() -> None:
    limits = edges(np.arange(4096))
    widths = np.diff(limits) / limits[:-1]
    assert (widths <= BIN).all()
    assert (widths > BIN / 2 * 0.999).all()


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.9999])
def test_quantiles_are_within_a_bin(share: float) -> None:
    values = normal(200_000)
    magnitudes, counts = _of(values).seen()
    found = magnitudes[np.searchsorted(np.cumsum(counts), share * counts.sum())]
    assert found == pytest.approx(np.quantile(np.abs(values), share, method="inverted_cdf"), rel=BIN)


def test_the_order_of_batches_does_not_matter_to_the_last_byte() -> None:
    batches = [normal(1000 + 17 * seed, seed=seed, scale=2.0 ** (seed - 5)) for seed in range(12)]
    whole = _of(np.concatenate(batches))
    assert _facts(_of(*batches)) == _facts(_of(*reversed(batches))) == _facts(whole)


def test_merging_is_counting_together() -> None:
    small, large = normal(500, scale=0.01), np.abs(normal(700, seed=1, scale=50.0))
    for first, second in ((small, large), (large, small)):
        merged = _of(first)
        merged.merge(_of(second))
        assert _facts(merged) == _facts(_of(small, large))
    merged.merge(Histogram())
    assert _facts(merged) == _facts(_of(small, large))


def test_counts_grow_with_the_largest_value() -> None:
    histogram = _of(np.float32([0.5]))
    before = histogram.counts.size
    histogram.add(np.float32([0.25]))
    assert histogram.counts.size == before
    histogram.add(np.float32([3e38]))
    assert histogram.counts.size > before
    assert (histogram.total, histogram.largest) == (3, np.float32(3e38))


def test_more_values_than_a_block_are_counted_once_each() -> None:
    values = normal((1 << 20) + 5)
    assert _of(values).total == values.size
    assert _facts(_of(values)) == _facts(_of(values[:7], values[7:]))


def test_zeros_and_what_is_as_good_as_zero() -> None:
    histogram = _of(np.float32([0.0, -0.0, 1e-12, -1e-40, 2.0]))
    assert (histogram.zeros, histogram.total, histogram.largest) == (4, 5, 2.0)
    only = _of(np.zeros((2, 3), np.float32))
    assert (only.zeros, only.largest, only.negative, only.finite) == (6, 0.0, False, True)
    magnitudes, counts = only.seen()
    assert (magnitudes.tolist(), counts.tolist()) == ([0.0], [6.0])


def test_an_array_without_values_is_nothing() -> None:
    assert _facts(_of(np.zeros((0, 4), np.float32))) == _facts(Histogram())


def test_a_sign_is_remembered() -> None:
    assert not _of(np.float32([0.0, 1.0])).negative
    histogram = _of(np.float32([1.0, -3.0]))
    assert (histogram.negative, histogram.largest) == (True, 3.0)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_told_and_not_counted(broken: float) -> None:
    histogram = _of(np.float32([1.0, broken, 2.0]))
    assert (histogram.finite, histogram.total) == (False, 2)
    histogram.add(np.float32([4.0]))
    assert (histogram.finite, histogram.largest) == (False, 4.0)
    merged = _of(np.float32([1.0]))
    merged.merge(histogram)
    assert not merged.finite


def test_layout_does_not_matter() -> None:
    values = normal(4, 6, 5)
    assert _facts(_of(values.transpose(2, 0, 1)[:, ::2])) == _facts(_of(values[::2]))
