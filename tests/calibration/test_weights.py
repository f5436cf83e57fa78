"""Weights in eight bits: the scale of each channel, rounding, and saturation where it pays."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from bbx.calibration.to_qdq import EIGHT_BIT_TYPES, EightBit
from bbx.calibration.weights import WeightMethod, quantised_weight, unbiased, weight_scale, with_scale
from tests.calibration.graphs import normal

KINDS: tuple[EightBit, ...] = ("int8", "fp8")
METHODS: tuple[WeightMethod, ...] = ("max", "mse", "unbiased")


def _errors(
    values: NDArray[np.float32], method: WeightMethod, kind: EightBit = "int8"
) -> NDArray[np.float64]:
    restored = quantised_weight(values, 0, kind, method).restored().astype(np.float64)
    errors: NDArray[np.float64] = ((restored - values) ** 2).sum(axis=1)
    return errors


@pytest.mark.parametrize(
    ("shape", "axis"), [((4, 3, 2, 2), 0), ((4, 3, 2, 2), 1), ((5, 6), 1), ((2, 5, 6), 2)]
)
def test_the_largest_weight_of_a_channel_becomes_the_largest_value(shape: tuple[int, ...], axis: int) -> None:
    values = normal(*shape)
    weight = quantised_weight(values, axis, "int8")
    others = tuple(each for each in range(len(shape)) if each != axis)
    np.testing.assert_allclose(weight.scale, np.abs(values).max(axis=others) / 127, rtol=1e-6)
    assert (np.abs(weight.values.astype(int)).max(axis=others) == 127).all()
    assert (weight.values.dtype, weight.values.shape, weight.axis) == (np.int8, shape, axis)


def test_one_scale_for_a_weight_without_an_axis() -> None:
    values = normal(4, 3, 2, 2)
    weight = quantised_weight(values, None, "int8")
    assert weight.scale.shape == ()
    np.testing.assert_allclose(weight.restored(), values, atol=np.abs(values).max() / 127 / 2 * 1.001)


def test_rounding_is_to_nearest_and_ties_go_to_even() -> None:
    values = np.float32([[0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 300, -300]])
    weight = with_scale(values, np.ones(1, np.float32), 0, "int8")
    assert weight.values.tolist() == [[0, 2, 2, 0, -2, 0, 127, -127]]


def test_fp8_has_the_values_of_e4m3_and_saturates() -> None:
    values = np.float32([[1.0, 1.05, 0.3, 1000, -1000]])
    weight = with_scale(values, np.ones(1, np.float32), 0, "fp8")
    wanted = np.float32([[1.0, 1.05, 0.3, 448, -448]]).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(weight.values.astype(np.float32), wanted.astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_channel_of_zeros_stays_zero(kind: EightBit, method: WeightMethod) -> None:
    values = np.stack([np.zeros(8, np.float32), normal(8)])
    weight = quantised_weight(values, 0, kind, method)
    assert (np.isfinite(weight.scale) & (weight.scale > 0)).all()
    np.testing.assert_array_equal(weight.restored()[0], 0)
    assert np.abs(weight.restored()[1] - values[1]).max() < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_never_worse(kind: EightBit) -> None:
    values = normal(16, 4096) ** 3
    assert (_errors(values, "mse", kind) <= _errors(values, "max", kind)).all()


def test_mse_lets_a_single_large_weight_saturate() -> None:
    values = np.random.default_rng(0).uniform(-0.6, 0.6, (2, 1 << 16)).astype(np.float32)
    values[0, 7] = 1.0
    plain, sharp = _errors(values, "max"), _errors(values, "mse")
    assert sharp[0] < 0.8 * plain[0]
    assert sharp[1] == pytest.approx(plain[1], rel=1e-2)


def test_mse_finds_what_a_finer_search_finds() -> None:
    values = normal(1, 4096, seed=3)
    largest = float(np.abs(values).max())
    errors = []
    for limit in np.linspace(0.6, 1.0, 400) * largest:
        stored = np.clip(np.rint(values.astype(np.float64) * 127 / limit), -127, 127) * limit / 127
        errors.append(((stored - values) ** 2).sum())
    assert min(errors) * 0.999 <= _errors(values, "mse")[0] <= min(errors) * 1.05
    assert 0.6 * largest / 127 <= float(weight_scale(values, 0, "int8", "mse")[0]) < largest / 127


@pytest.mark.parametrize("kind", KINDS)
def test_restored_values_are_within_half_a_step(kind: EightBit) -> None:
    values = normal(8, 64, scale=3.0)
    weight = quantised_weight(values, 0, kind)
    apart = np.abs(weight.restored() - values)
    step = weight.scale[:, None] if kind == "int8" else np.maximum(np.abs(values) / 8, weight.scale[:, None])
    assert (apart <= 0.5001 * step).all()
    assert EIGHT_BIT_TYPES[kind].dtype == weight.values.dtype


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 3, 3), 0), ((6, 5, 3, 3), 1), ((40, 7), None)])
def test_unbiased_weights_are_as_large_as_they_were(
    shape: tuple[int, ...], axis: int | None, kind: EightBit
) -> None:
    """Of what is stored, the part that lies along the exact weights is all of them."""
    values = normal(*shape) ** 3
    weight = quantised_weight(values, axis, kind, "mse")
    found = quantised_weight(values, axis, kind, "unbiased")
    others = tuple(each for each in range(len(shape)) if each != axis)
    exact = values.astype(np.float64)

    def along_them(restored: NDArray[np.float32]) -> NDArray[np.float64]:
        share: NDArray[np.float64] = (exact * restored).sum(axis=others) / (exact**2).sum(axis=others)
        return share

    np.testing.assert_allclose(along_them(found.restored()), 1.0, rtol=1e-6)
    assert np.abs(along_them(weight.restored()) - 1).max() > 1e-4
    np.testing.assert_array_equal(found.values, weight.values)
    assert (found.scale.shape, found.scale.dtype) == (weight.scale.shape, np.float32)


def test_channels_of_which_nothing_is_stored_keep_their_scales() -> None:
    values = np.stack([np.zeros(8, np.float32), np.full(8, 0.3, np.float32), normal(8)])
    weight = with_scale(values, np.full(3, 1.0, np.float32), 0, "int8")
    found = unbiased(weight, values)
    assert found.scale[:2].tolist() == [1.0, 1.0]
    assert found.scale[2] != 1.0
