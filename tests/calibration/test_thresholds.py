"""Thresholds against brute force over the very values, and methods that do not exist."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from bbx.calibration.histograms import Histogram
from bbx.calibration.thresholds import CANDIDATES, scale_of, threshold
from bbx.calibration.to_qdq import EightBit
from bbx.errors import UsageError
from tests.calibration.graphs import normal

BIN = 1 / 512
SAMPLES = {
    "normal": normal(100_000),
    "relu": np.maximum(normal(100_000, seed=1), 0),
    # As many a saturating activation: 4 is the lower edge of its bin, and its share decides.
    "heap at the end": np.concatenate([normal(100_000, seed=4, scale=0.4), np.full(5_000, np.float32(4.0))]),
    "heavy tail": normal(100_000, seed=2) ** 3,
    "outlier": np.concatenate([normal(100_000, seed=3), np.float32([100.0])]),
}


def _histogram(values: NDArray[np.float32]) -> Histogram:
    histogram = Histogram()
    histogram.add(values)
    return histogram


def _error(values: NDArray[np.float32], limit: float, kind: EightBit) -> float:
    """Mean squared error of quantised values, from the values themselves."""
    exact = values.astype(np.float64)
    if kind == "int8":
        stored = np.clip(np.rint(exact * 127 / limit), -127, 127) * limit / 127
    else:
        scaled = np.clip(exact * 448 / limit, -448, 448)
        stored = scaled.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * limit / 448
    return float(np.mean((stored - exact) ** 2))


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("name", SAMPLES)
def test_mse_is_what_a_finer_search_over_the_values_finds(name: str, kind: EightBit) -> None:
    values = SAMPLES[name]
    largest = float(np.abs(values).max())
    # `mse` looks from a twentieth of the largest magnitude on.
    least = min(_error(values, limit, kind) for limit in np.linspace(0.05, 1, 200) * largest)
    found = threshold(_histogram(values), "mse", kind)
    assert _error(values, found, kind) <= 1.03 * least


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("percent", [60, 99, 99.9, 99.99])
def test_percentiles_are_numpys_within_a_bin(name: str, percent: float) -> None:
    wanted = np.quantile(np.abs(SAMPLES[name]), percent / 100, method="inverted_cdf")
    assert threshold(_histogram(SAMPLES[name]), f"percentile:{percent}") == pytest.approx(wanted, rel=BIN)


def test_the_default_percentile_and_the_hundredth() -> None:
    histogram = _histogram(SAMPLES["normal"])
    assert threshold(histogram, "percentile") == threshold(histogram, "percentile:99.99")
    assert threshold(histogram, "percentile:100") == pytest.approx(threshold(histogram, "max"), rel=BIN)


def test_max_is_the_largest_magnitude_exactly() -> None:
    assert threshold(_histogram(np.float32([0.1, -0.7])), "max") == np.float32(0.7)


def test_entropy_cuts_an_outlier_off_and_keeps_the_distribution() -> None:
    histogram = _histogram(SAMPLES["outlier"])
    assert threshold(histogram, "max") == 100.0
    assert 3.0 < threshold(histogram, "entropy") < 10.0


def test_entropy_keeps_a_distribution_that_fills_its_range() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 100_000).astype(np.float32)
    assert threshold(_histogram(values), "entropy") > 0.95


def _migacz(values: NDArray[np.float32]) -> float:
    """Migacz's slides and ONNX Runtime's smoothing on the values themselves, with plain loops."""
    magnitudes = np.abs(values[values != 0]).astype(np.float64)
    counts, limits = np.histogram(magnitudes, 2048, (0, magnitudes.max()))
    best, least = 2048, np.inf
    for bins in range(128, 2049, 15):
        reference = counts[:bins].astype(np.float64)
        reference[-1] += counts[bins:].sum()
        quantised = np.zeros(bins)
        groups = [np.flatnonzero(np.arange(bins) * 128 // bins == level) for level in range(128)]
        for group in groups:
            filled = group[counts[group] > 0]
            if filled.size:
                quantised[filled] = counts[group].sum() / filled.size
        there = reference > 0
        quantised[there & (quantised == 0)] = 1e-4
        p, q = reference / reference.sum(), quantised / quantised.sum()
        divergence = float(np.sum(p[there] * np.log(p[there] / q[there])))
        if divergence < least:
            best, least = bins, divergence
    return float(limits[best])


@pytest.mark.parametrize("name", ["normal", "relu", "heap at the end", "outlier"])
def test_entropy_is_near_what_plain_loops_over_the_values_find(name: str) -> None:
    # The minimum is flat, and the values are known to a bin only.
    assert threshold(_histogram(SAMPLES[name]), "entropy") == pytest.approx(_migacz(SAMPLES[name]), rel=0.15)


@pytest.mark.parametrize("method", CANDIDATES)
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_every_candidate_gives_a_positive_threshold_within_the_range(method: str, kind: EightBit) -> None:
    for values in (*SAMPLES.values(), np.float32([0.3]), np.float32([0.0, 1e-8])):
        found = threshold(_histogram(values), method, kind)
        assert 0 < found <= np.abs(values).max()
        assert scale_of(found, kind) > 0


@pytest.mark.parametrize("method", CANDIDATES)
def test_a_tensor_of_zeros_has_a_tiny_threshold(method: str) -> None:
    found = threshold(_histogram(np.zeros(8, np.float32)), method)
    assert 0 < found < 1e-6
    assert np.isfinite(1 / np.float32(scale_of(found, "int8")))


def test_scales_bring_the_threshold_to_the_largest_value() -> None:
    assert scale_of(127.0, "int8") == 1.0
    assert scale_of(448.0, "fp8") == 1.0
    assert scale_of(0.1, "int8") == np.float32(0.1 / 127)


@pytest.mark.parametrize(
    "method", ["minmax", "auto", "percentile:50", "percentile:101", "percentile:-1", "percentile:x", ""]
)
def test_a_method_that_does_not_exist(method: str) -> None:
    with pytest.raises(UsageError) as caught:
        threshold(Histogram(), method)
    assert repr(method) in caught.value.message
    assert "entropy" in caught.value.hint
