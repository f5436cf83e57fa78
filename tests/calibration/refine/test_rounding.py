"""Rounding by a layer's outputs: never worse than the start, the best there is where that can be known."""

from __future__ import annotations

import numpy as np
import pytest

from bbx.calibration.refine.moments import Array, Moments, moments_of
from bbx.calibration.refine.rounding import damped, descended, refitted
from bbx.calibration.to_qdq import EIGHT_BIT_TYPES, EightBit, EightBitType, rounded

INT8 = EIGHT_BIT_TYPES["int8"]


def layer(
    groups: int, outputs: int, inputs: int, rows: int, *, noise: float = 0.02, seed: int = 0
) -> tuple[Moments, Array]:
    """Inputs that are correlated, as neighbouring channels are, and a little off in the quantised network."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((groups, inputs, inputs)) + 2.0
    exact = (random.standard_normal((groups, rows, inputs)) @ mixing).astype(np.float32)
    quantised = exact + noise * exact.std() * random.standard_normal(exact.shape).astype(np.float32)
    weights = random.standard_normal((groups, outputs, inputs)).astype(np.float32)
    return moments_of(quantised, exact, weights), weights.astype(np.float64)


def scales(weights: Array, levels: int) -> Array:
    return np.abs(weights).max(axis=2) / levels


def nearest(weights: Array, scale: Array, kind: EightBitType) -> Array:
    """What is stored, times its scale."""
    steps = scale[:, :, None]
    return rounded(weights / steps, kind).astype(np.float64) * steps


def test_the_error_is_that_of_the_rows() -> None:
    random = np.random.default_rng(1)
    quantised, exact = (random.standard_normal((3, 40, 6)).astype(np.float32) for _ in range(2))
    weights = random.standard_normal((3, 5, 6)).astype(np.float32)
    other = random.standard_normal((3, 5, 6))
    wanted = np.sum((quantised @ other.swapaxes(1, 2) - exact @ weights.swapaxes(1, 2)) ** 2, axis=1)
    whole = moments_of(quantised, exact, weights)
    halves = [moments_of(quantised[:, s], exact[:, s], weights) for s in (slice(0, 15), slice(15, 40))]
    np.testing.assert_allclose(whole.errors(other), wanted, rtol=1e-4)
    np.testing.assert_allclose((halves[0] + halves[1]).errors(other), wanted, rtol=1e-4)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize(("groups", "outputs", "inputs"), [(1, 12, 40), (20, 1, 9), (4, 3, 150)])
def test_every_output_is_at_least_as_close_as_with_nearest_rounding(
    groups: int, outputs: int, inputs: int, kind: EightBit
) -> None:
    found, weights = layer(groups, outputs, inputs, rows=400)
    eight = EIGHT_BIT_TYPES[kind]
    scale = scales(weights, 31 if kind == "int8" else 448)
    start = nearest(weights, scale, eight)
    best = refitted(start, found, scale, eight)
    assert np.all(found.errors(best) <= found.errors(start) * (1 + 1e-9))
    assert found.errors(best).sum() < 0.9 * found.errors(start).sum()
    np.testing.assert_array_equal(nearest(best, scale, eight), best)  # it can be stored


def test_no_single_weight_could_be_stored_better() -> None:
    found, weights = layer(1, 5, 12, rows=200)
    scale = scales(weights, 20)
    best = refitted(nearest(weights, scale, INT8), found, scale, INT8)
    least = found.errors(best)
    for index in range(12):
        for stored in range(-127, 128):
            other = best.copy()
            other[:, :, index] = stored * scale
            assert np.all(found.errors(other) >= least * (1 - 1e-9))


def test_weights_may_move_by_more_than_one_step() -> None:
    found, weights = layer(1, 8, 30, rows=500)
    scale = scales(weights, 100)
    best = refitted(nearest(weights, scale, INT8), found, scale, INT8)
    assert np.abs(best - weights).max() > scale.max() * 1.01


def relaxed(found: Moments, weights: Array, scale: Array) -> Array:
    """AdaRound (Nagel et al. 2020, equations 21 to 24): each weight up or down, by a rectified sigmoid."""
    steps = scale[:, :, None]
    below = np.floor(weights / steps)
    share = np.clip(weights / steps - below, 0.01, 0.99)
    alpha = -np.log(1.2 / (share + 0.1) - 1)
    slopes, squares = np.zeros_like(alpha), np.zeros_like(alpha)
    rounds = 1500
    for number in range(1, rounds + 1):
        sigmoid = 1 / (1 + np.exp(-alpha))
        up = np.clip(sigmoid * 1.2 - 0.1, 0, 1)
        slope = 2 * ((below + up) * steps @ found.gram - found.cross) * steps / found.energy.sum()
        if number > rounds / 5:
            beta = 20 - 18 * (number / rounds - 0.2) / 0.8
            sure = 2 * up - 1
            slope -= 1e-4 / up.size * 2 * beta * np.abs(sure) ** (beta - 1) * np.sign(sure)
        slope *= 1.2 * sigmoid * (1 - sigmoid) * ((up > 0) & (up < 1))
        slopes, squares = 0.9 * slopes + 0.1 * slope, 0.999 * squares + 0.001 * slope**2  # Adam
        corrected = np.sqrt(squares / (1 - 0.999**number)) + 1e-12
        alpha -= 2e-2 * slopes / (1 - 0.9**number) / corrected
    return (below + (alpha > 0)) * steps


@pytest.mark.parametrize(("groups", "outputs", "inputs"), [(1, 8, 32), (16, 1, 9)])
def test_it_is_no_worse_than_the_relaxation_of_adaround(groups: int, outputs: int, inputs: int) -> None:
    found, weights = layer(groups, outputs, inputs, rows=400, noise=0.0)
    scale = scales(weights, 31)
    start = nearest(weights, scale, INT8)
    peer = relaxed(found, weights, scale)
    ours = refitted(start, found, scale, INT8)
    assert found.errors(peer).sum() < found.errors(start).sum()  # the peer works
    assert found.errors(ours).sum() <= found.errors(peer).sum() * 1.02


def test_inputs_that_never_came_leave_their_weights_where_they_are() -> None:
    random = np.random.default_rng(3)
    rows = random.standard_normal((1, 300, 10)).astype(np.float32)
    rows[:, :, 4:] = 0
    weights = random.standard_normal((1, 6, 10)).astype(np.float32)
    scale = scales(weights.astype(np.float64), 127)
    start = nearest(weights.astype(np.float64), scale, INT8)
    found = damped(moments_of(rows, rows, weights), weights.astype(np.float64))
    best = refitted(start, found, scale, INT8)
    np.testing.assert_array_equal(best[:, :, 4:], start[:, :, 4:])


def test_damping_helps_on_images_that_were_not_seen() -> None:
    """From fewer rows than inputs; judged on more rows of the same kind."""
    many, weights = layer(1, 16, 64, rows=2000, noise=0.1, seed=5)
    few, _ = layer(1, 16, 64, rows=40, noise=0.1, seed=5)
    scale = scales(weights, 127)
    start = nearest(weights, scale, INT8)
    free = descended(start, few, scale, INT8)
    held = descended(start, damped(few, weights), scale, INT8)
    assert few.errors(free).sum() < few.errors(held).sum()
    assert many.errors(held).sum() < many.errors(free).sum()


def test_nothing_at_all_is_rounded_to_nearest() -> None:
    weights = np.random.default_rng(2).standard_normal((2, 3, 4))
    empty = Moments(0, np.zeros((2, 4, 4)), np.zeros((2, 3, 4)), np.zeros((2, 3)))
    scale = scales(weights, 127)
    start = nearest(weights, scale, INT8)
    np.testing.assert_array_equal(refitted(start, damped(empty, weights), scale, INT8), start)
