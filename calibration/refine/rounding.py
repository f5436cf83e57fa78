"""Rounding of a layer's weights that keeps its outputs close, and not each weight.

The objective is AdaRound's in its asymmetric form, without the activation function (Nagel et al. 2020, "Up or
Down? Adaptive Rounding for Post-Training Quantization", equation 25): the squared distance of the layer's
outputs, on what the quantised network gives it, from those of the FP32 network. AdaRound relaxes the choice
of up or down to a sigmoid and descends by gradients. Here the objective is taken as it is, a quadratic in the
stored weights. It is lowered one weight at a time to the stored value that is best with all others as they
are (cyclic coordinate descent, as in Behdin et al. 2023, "QuantEase"), from two starts: the weights as they
are, and weights rounded one after the other while those not yet rounded make up for the error (Frantar et al.
2022, "GPTQ", section 3). The better end is taken for each output. So no output gets worse, a weight may move
by more than one step, there is no learning rate, and equal inputs give equal weights.
"""

from __future__ import annotations

import numpy as np

from bbx.calibration.refine.moments import Array, Moments
from bbx.calibration.to_qdq import EightBitType, rounded

DAMPING = 1.0
"""Weight of the distance of the weights themselves, as a share of the mean square of an input.

A few dozen images do not span all that a layer will see; this keeps weights near their FP32 values in the
directions that they leave open. On EfficientNet-Lite1 and 80 crops the error on other crops fell up to here
(docs/refine.md)."""
_BLOCK = 128
_SWEEPS = 8


def damped(moments: Moments, weights: Array) -> Moments:
    """The moments with `DAMPING`: as if each input had also come alone, and been answered exactly."""
    gram = moments.gram.copy()
    inputs = gram.shape[1]
    diagonal = np.einsum("gii->gi", gram)  # a view
    extra = DAMPING * diagonal.mean(axis=1) + np.finfo(np.float64).tiny ** 0.5
    diagonal += extra[:, None]
    cross = moments.cross + extra[:, None, None] * weights
    energy = moments.energy + extra[:, None] * np.sum(weights**2, axis=2)
    return Moments(moments.count + inputs, gram, cross, energy)


def refitted(start: Array, moments: Moments, scale: Array, kind: EightBitType) -> Array:
    """Weights whose outputs have no larger error than with `start`, and mostly a smaller one.

    Args:
        start: float64 [groups, outputs, k], multiples of `scale` that the type can store.
        moments: with a Gram matrix that can be inverted, as that of `damped` can.
        scale: float64 [groups, outputs].

    Returns:
        As `start`.
    """
    descents = [descended(each, moments, scale, kind) for each in (start, compensated(moments, scale, kind))]
    errors = [moments.errors(each) for each in descents]
    return np.where((errors[1] < errors[0])[:, :, None], descents[1], descents[0])


def compensated(moments: Moments, scale: Array, kind: EightBitType) -> Array:
    """The weights of least error, rounded one input after the other, the rest making up for each.

    Args:
        scale: as of `refitted`.
    """
    inverse = np.linalg.inv(moments.gram)
    weights: Array = moments.cross @ inverse
    upper = np.linalg.cholesky(inverse).swapaxes(1, 2)
    for first in range(0, weights.shape[2], _BLOCK):
        last = min(first + _BLOCK, weights.shape[2])
        errors = np.empty((*weights.shape[:2], last - first))
        for j in range(first, last):
            stored = rounded(weights[:, :, j] / scale, kind).astype(np.float64) * scale
            errors[:, :, j - first] = (weights[:, :, j] - stored) / upper[:, None, j, j]
            weights[:, :, j + 1 : last] -= errors[:, :, j - first, None] * upper[:, None, j, j + 1 : last]
            weights[:, :, j] = stored
        weights[:, :, last:] -= errors @ upper[:, first:last, last:]
    return weights


def descended(start: Array, moments: Moments, scale: Array, kind: EightBitType) -> Array:
    """Weights of no larger error than `start`, by cyclic coordinate descent; see `refitted`."""
    weights = start.copy()
    slope = moments.cross - weights @ moments.gram
    for _ in range(_SWEEPS):
        before = weights.copy()
        for first in range(0, weights.shape[2], _BLOCK):
            block = slice(first, first + _BLOCK)
            change = _descend_block(
                weights[:, :, block], slope[:, :, block], moments.gram[:, block, block], scale, kind
            )
            slope -= change @ moments.gram[:, block, :]
        if np.array_equal(before, weights):
            break
    return weights


def _descend_block(weights: Array, slope: Array, gram: Array, scale: Array, kind: EightBitType) -> Array:
    """One sweep over some inputs, in place; returns by how much the weights changed.

    The slope of the inputs outside is brought up to date afterwards, in one product.
    """
    before = weights.copy()
    slope = slope.copy()
    for j in range(weights.shape[2]):
        best = weights[:, :, j] + slope[:, :, j] / gram[:, j, j, None]
        stored = rounded(best / scale, kind).astype(np.float64) * scale
        step = stored - weights[:, :, j]
        if step.any():
            weights[:, :, j] = stored  # and not `+= step`, which may be off by a rounding
            slope -= step[:, :, None] * gram[:, None, j, :]
    return weights - before
