"""Refinement of a quantised network in steps, each kept only if it helps on images that it did not see."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Literal

import numpy as np

from bbx.calibration.judged import Batches, Judge
from bbx.calibration.placement import Layer
from bbx.calibration.quantise import Images, Quantised, Recipe, quantised_from_onnx
from bbx.calibration.refine.equalise import Equalised, equalised
from bbx.calibration.refine.moments import Array, Matrix, Moments, moments_of
from bbx.calibration.refine.rounding import damped, refitted
from bbx.calibration.refine.walk import Change, Left, Quantisation, Visit, walked
from bbx.calibration.to_qdq import EIGHT_BIT_TYPES, EightBitType, rounded
from bbx.errors import UsageError

Step = Literal["equalise", "rounding", "bias"]

STEPS: tuple[Step, ...] = ("equalise", "rounding", "bias")
"""In the order in which they are taken."""
_WALKED: tuple[Step, ...] = ("rounding", "bias")
WIDEST = 8192
"""Inputs of an output up to which weights are rounded anew: the Gram matrix of that many holds 512 MiB."""


@dataclass(frozen=True, slots=True)
class LayerGain:
    """What a step did to one layer, on the calibration images.

    Attributes:
        before, after: distance of the layer's outputs from the FP32 network's, in L2, relative to theirs; of
            the step `bias`, distance of the outputs' means. None where the step left the layer alone.
        left: why it did; empty where it did not.
    """

    name: str
    role: str
    before: float | None
    after: float | None
    left: str = ""


@dataclass(frozen=True, slots=True)
class Gain:
    """What a step did to the whole network, on images that it did not see.

    Attributes:
        before, after: the judge's error of the network without and with the step.
        layers: in the graph's order; of the steps `rounding` and `bias`.
        rescaled: channels that the step `equalise` rescaled.
    """

    step: Step
    before: float
    after: float
    layers: tuple[LayerGain, ...] = ()
    rescaled: tuple[Equalised, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether the step helped; if not, it was undone."""
        return self.after < self.before


def refined(
    start: Quantised, recipe: Recipe, images: Images, steps: Sequence[Step] = STEPS
) -> tuple[Quantised, tuple[Gain, ...]]:
    """Refine the weights and biases of a quantised graph.

    Args:
        start: what `quantised_from_onnx` made of this recipe and these images.
        steps: which to take; they are taken in the order of `STEPS`.

    Returns:
        The graph as refined, and the gain of each step. Its `source` has the biases and the rescaled weights
        of the refined graph; its `judge` still compares with the FP32 graph that was given. Equal inputs
        give equal bytes.

    Raises:
        UsageError: there is no such step, or channels cannot be rescaled because scales were given.
        BbxError: there is no image, or ONNX Runtime cannot run the graph.
    """
    unknown = [step for step in steps if step not in STEPS]
    if unknown:
        raise UsageError(f"There is no refinement {unknown[0]!r}.", hint=f"Type some of: {', '.join(STEPS)}.")
    gains: list[Gain] = []
    if "equalise" in steps:
        start, gain = _equalised(start, recipe, images)
        gains.append(gain)
    now = Quantisation(start.source, start.placement, start.scales, start.weights, start.kind)
    error = start.error
    for step in (step for step in _WALKED if step in steps):
        changed, gain = _walked(step, now, error, images.calibration, start.judge)
        gains.append(gain)
        if gain.kept:
            now, error = changed, gain.after
    found = replace(start, model=now.graph(), source=now.model, weights=now.weights, error=error)
    return found, tuple(gains)


def _equalised(start: Quantised, recipe: Recipe, images: Images) -> tuple[Quantised, Gain]:
    """Rescale channels, and calibrate once more, since ranges change."""
    if recipe.scales:
        raise UsageError(
            "Given scales are those of the channels as they are, so channels cannot be rescaled.",
            hint="Leave out equalise: --refine rounding,bias",
        )
    model, rescaled = equalised(start.source, images.calibration)
    if not rescaled:
        return start, Gain("equalise", start.error, start.error)
    again = quantised_from_onnx(model, recipe, images)
    gain = Gain("equalise", start.error, again.error, rescaled=rescaled)
    return (again if gain.kept else start), gain


def _walked(
    step: Step, start: Quantisation, error: float, batches: Batches, judge: Judge
) -> tuple[Quantisation, Gain]:
    """Change every layer by one step."""
    change = partial(_CHANGES[step], kind=EIGHT_BIT_TYPES[start.kind])
    changed, happened = walked(start, batches, change, f"refine {step}")
    layers = tuple(_layer_gain(layer, found) for layer, found in happened)
    return changed, Gain(step, error, judge.error(changed.graph()), layers)


def _layer_gain(layer: Layer, found: Change | Left) -> LayerGain:
    if isinstance(found, Left):
        return LayerGain(layer.name, layer.role, None, None, found.why)
    return LayerGain(layer.name, layer.role, found.before, found.after)


def _rounding(visit: Visit, *, kind: EightBitType) -> Change | Left:
    """Weights rounded so that the layer's outputs are close."""
    if visit.shared > 1:
        return Left(f"{visit.shared} layers share its weight")
    if visit.exact.shape[2] > WIDEST:
        return Left(f"each of its outputs has {visit.exact.shape[2]} inputs, more than {WIDEST}")
    found = sum_of_moments(visit)
    now = visit.product.matrices(visit.weight.restored()).astype(np.float64)
    scale = _scales(visit)
    exact = visit.exact.astype(np.float64)
    best = refitted(now, damped(found, exact), scale, kind)
    stored = rounded(best / scale[:, :, None], kind)
    weight = replace(visit.weight, values=visit.product.weight(stored))
    return Change(found.relative_error(now), found.relative_error(best), weight=weight)


def sum_of_moments(visit: Visit) -> Moments:
    """Of all images."""
    return reduce(operator.add, (moments_of(*rows, visit.exact) for rows in visit.rows()))


def _scales(visit: Visit) -> Array:
    """[groups, outputs] of the visited weight."""
    shape = visit.exact.shape[:2]
    scale = visit.weight.scale.astype(np.float64)
    return np.broadcast_to(scale, shape) if visit.weight.axis is None else scale.reshape(shape)


def _bias(visit: Visit, *, kind: EightBitType) -> Change | Left:
    """The mean error of each output goes into its bias (Nagel et al. 2019, section 4.2, empirical form)."""
    now = visit.product.matrices(visit.weight.restored()).astype(np.float64)
    exact = visit.exact.astype(np.float64)
    count, had, wanted = 0, np.zeros(exact.shape[:2]), np.zeros(exact.shape[:2])
    for quantised, rows in visit.rows():
        count += rows.shape[1]
        had += _answers(now, quantised)
        wanted += _answers(exact, rows)
    step = (wanted - had).reshape(-1) / count
    size = max(np.linalg.norm(wanted) / count, np.finfo(np.float64).tiny)
    return Change(float(np.linalg.norm(step) / size), 0.0, bias=step)


def _answers(weights: Array, rows: Matrix) -> Array:
    """Outputs [groups, outputs], summed over rows."""
    total: Array = weights @ rows.sum(axis=1, dtype=np.float64)[:, :, None]
    return total[:, :, 0]


_CHANGES: dict[Step, Callable[..., Change | Left]] = {"rounding": _rounding, "bias": _bias}
