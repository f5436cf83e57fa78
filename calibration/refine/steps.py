"""Refinement of a quantised network in steps, each kept only if it helps on images that it did not see."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import numpy as np

from bbx.calibration.judged import Batches, Judge
from bbx.calibration.placement import Layer
from bbx.calibration.refine.moments import Array, Matrix, Moments, moments_of
from bbx.calibration.refine.rounding import damped, refitted
from bbx.calibration.refine.walk import Change, Left, Quantisation, Visit, walked
from bbx.calibration.to_qdq import rounded
from bbx.errors import UsageError

Step = Literal["rounding", "bias"]

STEPS: tuple[Step, ...] = ("rounding", "bias")
"""In the order in which they are taken."""
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
        layers: in the graph's order.
    """

    step: Step
    before: float
    after: float
    layers: tuple[LayerGain, ...]

    @property
    def kept(self) -> bool:
        """Whether the step helped; if not, it was undone."""
        return self.after < self.before


def refined(
    start: Quantisation, batches: Batches, judge: Judge, *, steps: Sequence[Step] = STEPS
) -> tuple[Quantisation, tuple[Gain, ...]]:
    """Refine the weights and biases of a quantised network.

    Args:
        start: what to refine, its weights rounded in any way; scales and placement stay as they are.
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


_CHANGES: dict[Step, Callable[[Visit], Change | Left]] = {"rounding": _rounding, "bias": _bias}
