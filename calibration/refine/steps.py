"""Refinement of a quantised network in steps, each kept only if it helps on images that it did not see."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import numpy as np

from bbx.calibration.judged import Batches, Judge
from bbx.calibration.methods import RefineStep
from bbx.calibration.placement import Layer
from bbx.calibration.refine.answers import Answers, answers_of, distance
from bbx.calibration.refine.moments import Array, Moments, moments_of
from bbx.calibration.refine.rounding import damped, refitted
from bbx.calibration.refine.walk import Change, Left, Quantisation, Visit, walked
from bbx.calibration.to_qdq import QuantisedWeight, rounded
from bbx.errors import UsageError

Step = Literal["rounding", "bias"]

STEPS: tuple[Step, ...] = ("rounding", "bias")
"""In the order in which they are taken."""
WORTH = 0.02
"""Share of the network's error that a step must save to be kept: less is chance, on a few held-out images."""
MOST_SPREAD = 2.0
"""Most that the scale of an output is changed by, either way."""
WIDEST = 8192
"""Inputs of an output up to which weights are rounded anew: the Gram matrix of that many holds 512 MiB."""


@dataclass(frozen=True, slots=True)
class LayerGain:
    """What a step did to one layer, on the calibration images.

    Attributes:
        before, after: distance of the layer's outputs from the FP32 network's, in L2, relative to theirs; of
            the step `bias`, of the outputs' means and standard deviations. None where the step left the
            layer alone.
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
        layers: in the graph's order; of `equalise`, which works on channels, none.
    """

    step: RefineStep
    before: float
    after: float
    layers: tuple[LayerGain, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether the step helped by `WORTH`; if not, it was undone."""
        return self.after < (1 - WORTH) * self.before


def refined(
    start: Quantisation, batches: Batches, judge: Judge, *, steps: Sequence[Step] = STEPS
) -> tuple[Quantisation, tuple[Gain, ...]]:
    """Refine the weights and biases of a quantised network.

    Args:
        start: what to refine, its weights rounded in any way; placement and the scales of activations stay as
            they are.
        batches: calibration images.
        judge: of images that are not among them; it decides whether a step is kept.
        steps: which to take; they are taken in the order of `STEPS`.

    Returns:
        The network as refined, and the gain of each step. Equal inputs give equal bytes.

    Raises:
        UsageError: there is no such step.
        BbxError: there is no image, or ONNX Runtime cannot run the graph in stages.
    """
    unknown = [step for step in steps if step not in STEPS]
    if unknown:
        raise UsageError(f"There is no refinement {unknown[0]!r}.", hint=f"Type some of: {', '.join(STEPS)}.")
    taken = [step for step in STEPS if step in steps]
    if not taken:
        return start, ()
    now, error = start, judge.error(start.graph())
    gains: list[Gain] = []
    for step in taken:
        changed, happened = walked(now, batches, _CHANGES[step], f"refine {step}")
        layers = tuple(_layer_gain(layer, found) for layer, found in happened)
        gains.append(Gain(step, error, judge.error(changed.graph()), layers))
        if gains[-1].kept:
            now, error = changed, gains[-1].after
    return now, tuple(gains)


def _layer_gain(layer: Layer, found: Change | Left) -> LayerGain:
    if isinstance(found, Left):
        return LayerGain(layer.name, layer.role, None, None, found.why)
    return LayerGain(layer.name, layer.role, found.before, found.after)


def _rounding(visit: Visit) -> Change | Left:
    """Weights rounded so that the layer's outputs are close."""
    if visit.shared > 1:
        return Left(f"{visit.shared} layers share its weight")
    if visit.product.inputs > WIDEST:
        return Left(f"each of its outputs has {visit.product.inputs} inputs, more than {WIDEST}")
    found = _sum_of_moments(visit)
    scale = _scales(visit)
    now = visit.product.matrices(visit.weight.values).astype(np.float64) * scale[:, :, None]
    best = refitted(now, damped(found, visit.exact.astype(np.float64)), scale, visit.kind)
    stored = rounded(best / scale[:, :, None], visit.kind)
    weight = replace(visit.weight, values=visit.product.weight(stored))
    return Change(found.relative_error(now), found.relative_error(best), weight=weight)


def _sum_of_moments(visit: Visit) -> Moments:
    """Of all images."""
    return reduce(operator.add, (moments_of(*rows, visit.exact) for rows in visit.rows()))


def _scales(visit: Visit) -> Array:
    """[groups, outputs] of the visited weight."""
    shape = visit.exact.shape[:2]
    scale = visit.weight.scale.astype(np.float64)
    return np.broadcast_to(scale, shape) if visit.weight.axis is None else scale.reshape(shape)


def _bias(visit: Visit) -> Change | Left:
    """Each output has the mean and the spread of the FP32 layer's again, by its bias and its scale.

    The mean is Nagel et al. 2019, section 4.2, in the empirical form. For the spread, Banner et al. 2019
    ("Post training 4-bit quantization of convolutional networks for rapid-deployment") take the ratio of the
    weights' norms; here it is measured at the outputs too, as when batch norms are estimated anew (Hubara et
    al. 2020, "Improving Post Training Neural Quantization", batch normalization tuning). With the mean alone,
    the signal of a deep network fades from layer to layer.
    """
    stored = visit.product.matrices(visit.weight.restored()).astype(np.float32, copy=False)
    pairs = [(answers_of(q, stored), answers_of(x, visit.exact)) for q, x in visit.rows()]
    had, wanted = (reduce(operator.add, side) for side in zip(*pairs, strict=True))
    factor = _spread(visit, had, wanted)
    return Change(
        distance(had.mean, had.deviation, wanted),
        distance(wanted.mean, factor * had.deviation, wanted),
        weight=_scaled(visit.weight, factor),
        bias=(wanted.mean - factor * had.mean).reshape(-1),
    )


def _spread(visit: Visit, had: Answers, wanted: Answers) -> Array:
    """[groups, outputs], by what each output is multiplied: 1 where it has no scale of its own."""
    if visit.weight.axis is None or visit.shared > 1:
        return np.ones_like(had.total)
    known = (had.deviation > 0) & (wanted.deviation > 0)
    ratio = np.divide(wanted.deviation, had.deviation, out=np.ones_like(had.total), where=known)
    return np.clip(ratio, 1 / MOST_SPREAD, MOST_SPREAD)


def _scaled(weight: QuantisedWeight, factor: Array) -> QuantisedWeight:
    if weight.axis is None:
        return weight
    return replace(weight, scale=(weight.scale * factor.reshape(-1)).astype(np.float32))


_CHANGES: dict[Step, Callable[[Visit], Change | Left]] = {"rounding": _rounding, "bias": _bias}
