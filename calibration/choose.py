"""Choices that are measured: the method that gives each group of tensors its scale, and what is kept.

No calibration method wins on every network, nor on every tensor of one. So each group of tensors (by what
they feed) takes the method with which the whole network comes closest to its FP32 answers on images that
were held out of the collection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper

from bbx.calibration.histograms import Histogram
from bbx.calibration.judged import Judge
from bbx.calibration.placement import Placement, Role, place
from bbx.calibration.sessions import session
from bbx.calibration.thresholds import CANDIDATES, Method, scale_of, threshold
from bbx.calibration.to_qdq import EightBit, QuantisedWeight, qdq_from_onnx
from bbx.process import progress

GAIN = 0.2
"""Share of the squared error that leaving a group of layers in floating point must save."""
_MOST_WEIGHT = 0.05
"""Share of the quantisable weights that a group may hold and still be left out by this choice."""
_SAVE = "lower the squared error of the whole network by"
_CHOSEN_ROLES: tuple[Role, ...] = ("first", "last", "depthwise")


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing that was tried, for the record.

    Attributes:
        what: group and choice.
        error: relative L2 distance of the whole network's answers.
        taken: whether it was chosen.
    """

    what: str
    error: float
    taken: bool


@dataclass(frozen=True, slots=True)
class Laboratory:
    """What every trial on one network needs.

    Attributes:
        source: the FP32 graph, prepared.
        weights: of every layer, in eight bits.
        judge: how far a graph is from `source`.
    """

    source: ModelProto
    weights: Mapping[str, QuantisedWeight]
    judge: Judge
    kind: EightBit


def scales_by(
    histograms: Mapping[str, Histogram], methods: Mapping[str, Method], kind: EightBit
) -> dict[str, float]:
    """The scale of each tensor by its own method."""
    return {
        name: scale_of(threshold(histogram, methods[name], kind), kind)
        for name, histogram in histograms.items()
    }


def choose_methods(
    lab: Laboratory, placement: Placement, histograms: Mapping[str, Histogram]
) -> tuple[dict[str, Method], list[Trial]]:
    """The method of each tensor of a placement, one for all tensors of a role.

    The groups are decided one after the other, the largest first, each with the others as they are. All
    trials run in one session, whose scales are inputs.

    Returns:
        The method by tensor, and what was tried.
    """
    options = {
        name: {method: scale_of(threshold(h, method, lab.kind), lab.kind) for method in CANDIDATES}
        for name, h in histograms.items()
    }
    methods: dict[str, Method] = dict.fromkeys(placement.activations, CANDIDATES[0])
    roles = placement.roles
    groups: dict[str, list[str]] = {}
    for name in placement.activations:
        groups.setdefault(roles[name], []).append(name)
    start = {name: options[name][method] for name, method in methods.items()}
    graph = qdq_from_onnx(lab.source, placement, start, lab.weights, lab.kind)
    names = _scales_as_inputs(graph, placement.activations)
    trials: list[Trial] = []
    with session(lab.judge.part_of(graph), "a choice of methods", exact=True) as opened:

        def error(tried: Mapping[str, Method]) -> float:
            given = {
                names[tensor]: np.asarray(options[tensor][method], np.float32)
                for tensor, method in tried.items()
            }
            return lab.judge.error_of(lambda batch: opened.run({**batch, **given}))

        least = error(methods)
        for role, members in sorted(groups.items(), key=lambda item: -len(item[1])):
            progress("choose", detail=f"the method of {len(members)} tensors ({role})")
            found = {CANDIDATES[0]: least}
            for method in CANDIDATES[1:]:
                found[method] = error(methods | dict.fromkeys(members, method))
            best = min(found, key=lambda method: found[method])
            least = found[best]
            methods |= dict.fromkeys(members, best)
            trials += [Trial(f"{role}: {method}", value, method == best) for method, value in found.items()]
    return methods, trials


def _scales_as_inputs(graph: ModelProto, tensors: Sequence[str]) -> dict[str, str]:
    """Turn the scales of activations into inputs of the graph; returns their names by tensor."""
    quantisers = {node.input[0]: node for node in graph.graph.node if node.op_type == "QuantizeLinear"}
    names = {tensor: quantisers[tensor].input[1] for tensor in tensors}
    scales = set(names.values())
    kept = [
        TensorProto.FromString(t.SerializeToString()) for t in graph.graph.initializer if t.name not in scales
    ]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    graph.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in names.values()
    )
    return names


def choose_kept(
    lab: Laboratory, placement: Placement, scales: Mapping[str, float]
) -> tuple[dict[str, str], list[Trial]]:
    """Which of the first, last and depthwise layers to leave in floating point.

    A group stays in floating point when that saves a fifth of the squared error and the group holds at
    most a twentieth of the weights: little is then lost of what eight bits are for.

    Returns:
        Names of layers with the reason, as `place` takes them, and what was tried.
    """
    already = {node.name: node.reason for node in placement.kept}
    bytes_of = {layer.name: lab.weights[layer.weight].values.size for layer in placement.layers}
    total = sum(bytes_of.values())
    kept: dict[str, str] = {}
    trials: list[Trial] = []

    def error(left_out: dict[str, str]) -> float:
        trial = place(lab.source, keep=already | left_out, scaled=scales)
        return lab.judge.error(qdq_from_onnx(lab.source, trial, scales, lab.weights, lab.kind))

    least = error(kept)
    for role in _CHOSEN_ROLES:
        members = [layer.name for layer in placement.layers if layer.role == role]
        if not members or sum(bytes_of[name] for name in members) > _MOST_WEIGHT * total:
            continue
        progress("choose", detail=f"the precision of {len(members)} layers ({role})")
        found = error(kept | dict.fromkeys(members, role))
        saved = 1 - (found / least) ** 2 if least > 0 else 0.0
        taken = saved >= GAIN
        trials.append(Trial(f"{role} layers in floating point", found, taken))
        if taken:
            kept |= dict.fromkeys(members, f"{role} layer: in floating point such layers {_SAVE} {saved:.0%}")
            least = found
    return kept, trials
