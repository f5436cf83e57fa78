"""As few layers in floating point as an accuracy budget asks for.

Layers are ranked by what each, put back to floating point alone, gives back at the network's outputs
(as in TensorFlow's accuracy-aware tools and NNCF); then the first ones of that ranking are put back, as many
as it takes, found by doubling and bisection on the task's own measure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto

from bbx.calibration.accuracy import Accuracy
from bbx.calibration.quantise import Quantised
from bbx.process import progress


@dataclass(frozen=True, slots=True)
class PutBack:
    """A layer that was put back to floating point.

    Attributes:
        cost_bytes: weight bytes that are no longer saved (three of every four).
        bought: by how much the relative L2 error at the outputs falls when it alone is put back.
    """

    name: str
    cost_bytes: int
    bought: float


@dataclass(frozen=True, slots=True)
class Controlled:
    """What accuracy control gave.

    Attributes:
        model: the graph that keeps the budget, or, where none does, the most accurate one.
        met: whether it keeps the budget.
        drop: how far its score is below FP32's.
        before: the same of the graph that everything started from.
        error: relative L2 distance of `model` from the FP32 graph on the images of choices.
        put_back: layers in floating point, the most sensitive first.
        evaluations: how often the task's measure was taken.
    """

    model: ModelProto
    met: bool
    drop: float
    before: float
    error: float
    put_back: tuple[PutBack, ...]
    evaluations: int


def controlled(quantised: Quantised, accuracy: Accuracy, max_drop: float) -> Controlled:
    """Put layers back to floating point until the task's measure falls by `max_drop` at most.

    Args:
        max_drop: in the measure's unit, 0..1.
    """
    before = accuracy.baseline - accuracy.score(quantised.model)
    if before <= max_drop:
        return Controlled(quantised.model, True, before, before, quantised.error, (), 1)
    ranked = _ranked(quantised)
    tried: dict[int, tuple[float, ModelProto]] = {0: (before, quantised.model)}

    def drop(count: int) -> float:
        if count not in tried:
            progress("accuracy", detail=f"{count} layers in floating point")
            graph = quantised.keeping({layer.name: _reason(layer) for layer in ranked[:count]})
            tried[count] = (accuracy.baseline - accuracy.score(graph), graph)
        return tried[count][0]

    # Putting all layers back would be FP32 again, and no quantisation.
    most = len(ranked) - 1
    high = min(1, most)
    while drop(high) > max_drop and high < most:
        high = min(2 * high, most)
    low = max((count for count in tried if count < high), default=0)
    if tried[high][0] <= max_drop:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if drop(middle) <= max_drop else (middle, high)
    else:
        high = min(tried, key=lambda count: (tried[count][0], count))
    found, graph = tried[high]
    error = quantised.judge.error(graph) if high else quantised.error
    return Controlled(graph, found <= max_drop, found, before, error, tuple(ranked[:high]), len(tried))


def _reason(layer: PutBack) -> str:
    return f"accuracy: alone it lowers the error at the outputs by {layer.bought:.1%}"


def _ranked(quantised: Quantised) -> list[PutBack]:
    """The layers, the most sensitive first; of equals the one with fewer weights."""
    layers = quantised.placement.layers
    saved: Mapping[str, int] = {
        layer.name: 3 * int(quantised.weights[layer.weight].values.size) for layer in layers
    }
    found = []
    for index, layer in enumerate(layers):
        progress("sensitivity", index / len(layers), layer.name)
        error = quantised.judge.error(quantised.keeping({layer.name: "a trial"}))
        bought = 1 - error / quantised.error if quantised.error > 0 else 0.0
        found.append(PutBack(layer.name, saved[layer.name], bought))
    return sorted(found, key=lambda layer: (-layer.bought, layer.cost_bytes, layer.name))
