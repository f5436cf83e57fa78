"""From an FP32 graph and images to a quantised graph: the whole of calibration, in order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from bbx import process
from bbx.calibration.choose import Laboratory, Trial, choose_kept, choose_methods, scales_by
from bbx.calibration.collect import collect
from bbx.calibration.fold import constant_weights, folded
from bbx.calibration.histograms import Histogram
from bbx.calibration.judged import Batches, Judge, judge_by
from bbx.calibration.methods import AUTO, RefineStep, require_method
from bbx.calibration.placement import Layer, Placement, place
from bbx.calibration.refine.equalise import Equalised, equalised
from bbx.calibration.refine.steps import STEPS, Gain, refined
from bbx.calibration.refine.walk import Quantisation
from bbx.calibration.scales import check_scales
from bbx.calibration.thresholds import Method
from bbx.calibration.to_qdq import EIGHT_BIT_TYPES, EightBit, QuantisedWeight, qdq_from_onnx
from bbx.calibration.weights import WeightMethod, quantised_weight
from bbx.errors import ExportError, UsageError, did_you_mean
from bbx.exporter import onnx_graph
from bbx.exporter.onnx_graph import all_names
from bbx.exporter.typed_policy import KeptNode

_RUN_BY_ONNX_RUNTIME = ("com.microsoft", "ai.onnx.ml", "com.microsoft.nchwc")

GIVEN = "given"
"""Method of a tensor whose scale was given."""

ZERO = "its input was zero on all calibration images"
"""Why a layer is kept that calibration said nothing about."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to quantise a graph.

    Attributes:
        kind: `int8` or `fp8` (E4M3).
        method: `auto`, or one method for all activations (see `thresholds.Method`).
        keep: patterns (`*`, `?`) of the names of layers to leave in floating point.
        scales: of activations, in place of measured ones; a tensor it does not name takes its measured one.
            Names of the graph's other tensors are passed over, with a warning.
        refine: what is done to the weights beyond rounding them to nearest; see `bbx.calibration.refine`.
    """

    kind: EightBit = "int8"
    method: Method = AUTO
    keep: tuple[str, ...] = ()
    scales: Mapping[str, float] = field(default_factory=dict)
    refine: tuple[RefineStep, ...] = ()

    def __post_init__(self) -> None:
        if self.method != AUTO:
            require_method(self.method)


@dataclass(frozen=True, slots=True)
class Images:
    """What a graph is calibrated with.

    Attributes:
        calibration: the ranges are taken from these.
        held_out: choices are made by these.
        count: images in `calibration`, for the progress that is shown.
    """

    calibration: Batches
    held_out: Batches
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Quantised:
    """A quantised graph and how it came about.

    Attributes:
        model: with Q/DQ nodes and weights in eight bits; passes the checker.
        source: the FP32 graph that it was made from: prepared, batch norms folded, channels equalised and
            biases corrected where refinement did that.
        placement: what is quantised and what is not.
        scales: by activation.
        weights: by initialiser.
        methods: by activation; `given` where the scale was.
        judge: how far any graph is from the FP32 graph on the held-out images.
        error: of `model`, by that judge.
        trials: what was tried on the way.
        gains: what each refinement did.
        equalised: channels that were rescaled.
    """

    model: ModelProto
    source: ModelProto
    placement: Placement
    scales: Mapping[str, float]
    weights: Mapping[str, QuantisedWeight]
    methods: Mapping[str, Method]
    judge: Judge
    error: float
    trials: tuple[Trial, ...]
    kind: EightBit
    gains: tuple[Gain, ...] = ()
    equalised: tuple[Equalised, ...] = ()

    @property
    def kept(self) -> tuple[KeptNode, ...]:
        """Convolutions and matrix products that stay in floating point, and why."""
        return self.placement.kept

    def keeping(self, layers: Mapping[str, str]) -> ModelProto:
        """The graph with these layers in floating point too, by name with the reason."""
        already = {node.name: node.reason for node in self.kept}
        placement = place(self.source, keep=already | dict(layers), scaled=self.scales)
        return qdq_from_onnx(self.source, placement, self.scales, self.weights, self.kind)


def quantised_from_onnx(model: ModelProto, recipe: Recipe, images: Images) -> Quantised:
    """Calibrate a graph and put Q/DQ nodes in.

    Args:
        model: FP32, from any exporter; it is not changed.

    Raises:
        ExportError: there is nothing to quantise in it, or it is quantised already.
        UsageError: a pattern of `recipe.keep` or a name of `recipe.scales` matches nothing, or no scale of
            these is for a tensor that is quantised.
        BbxError: ONNX Runtime cannot run it on the images, or a value is not finite.
    """
    source = prepared_for(model, recipe.kind)
    placement = _placed(source, recipe)  # which refuses what cannot be quantised before any image is read
    check_scales(recipe.scales, placement.activations, _names_of(model) | _names_of(source))
    judge = judge_by(source, images.held_out)
    start = _started(source, recipe, images, judge)
    rescaled: tuple[Equalised, ...] = ()
    gains: tuple[Gain, ...] = ()
    if "equalise" in recipe.refine:
        start, rescaled, gains = _equalised(start, recipe, images, judge)
    now, trials = start.quantisation, list(start.trials)
    steps = [step for step in STEPS if step in recipe.refine]
    now, more_gains = refined(now, images.calibration, judge, steps=steps)
    if recipe.method == AUTO:  # only now: what refinement repaired need not be left out
        now, more = _with_kept(now, judge)
        trials += more
    graph = now.graph()
    names = now.placement.activations
    return Quantised(
        model=graph,
        source=now.model,
        placement=now.placement,
        scales={name: now.scales[name] for name in names},
        weights={layer.weight: now.weights[layer.weight] for layer in now.placement.layers},
        methods={name: start.methods[name] for name in names},
        judge=judge,
        error=judge.error(graph),
        trials=tuple(trials),
        kind=recipe.kind,
        gains=(*gains, *more_gains),
        equalised=rescaled,
    )


@dataclass(frozen=True, slots=True)
class _Start:
    """A network with scales, its weights rounded to nearest."""

    quantisation: Quantisation
    methods: Mapping[str, Method]
    trials: tuple[Trial, ...]
    error: float


def _started(source: ModelProto, recipe: Recipe, images: Images, judge: Judge) -> _Start:
    """Collect, choose the methods, round; nothing is collected where every scale is given."""
    placement = _placed(source, recipe)
    histograms: Mapping[str, Histogram] = {}
    if any(name not in recipe.scales for name in placement.activations):
        histograms = collect(source, placement.activations, images.calibration(), images=images.count)
        silent = {name for name, found in histograms.items() if found.silent} - set(recipe.scales)
        if silent:
            placement = _without(silent, source, placement)
            histograms = {name: histograms[name] for name in placement.activations}
    given = {name: recipe.scales[name] for name in placement.activations if name in recipe.scales}
    weights = rounded_weights(source, placement.layers, recipe.kind, _weight_method(recipe))
    methods, trials = dict.fromkeys(placement.activations, recipe.method), list[Trial]()
    if recipe.method == AUTO and histograms:
        lab = Laboratory(source, weights, judge, recipe.kind)
        methods, trials = choose_methods(lab, placement, histograms)
    scales = scales_by(histograms, methods, recipe.kind) | given
    methods |= dict.fromkeys(given, GIVEN)
    found = Quantisation(source, placement, scales, weights, recipe.kind)
    return _Start(found, methods, tuple(trials), judge.error(found.graph()))


def _weight_method(recipe: Recipe) -> WeightMethod:
    """How weights are rounded to nearest.

    Those that will be rounded anew need nothing made up for: their outputs are fitted then. From unbiased
    scales that ended with as small an error, but on EfficientNet-Lite1 and -Lite2 in fewer equal answers.
    """
    if recipe.method == "max":
        return "max"
    return "mse" if "rounding" in recipe.refine else "unbiased"


def _equalised(
    start: _Start, recipe: Recipe, images: Images, judge: Judge
) -> tuple[_Start, tuple[Equalised, ...], tuple[Gain, ...]]:
    """The same with channels rescaled, where that brings the network closer to FP32.

    Returns:
        The better of the two; what was rescaled in it; the gain, if there was a channel to rescale.
    """
    source, rescaled = equalised(start.quantisation.model, images.calibration)
    if not rescaled:
        return start, (), ()
    other = _started(source, recipe, images, judge)
    gain = Gain("equalise", start.error, other.error)
    return (other, rescaled, (gain,)) if gain.kept else (start, (), (gain,))


def _placed(source: ModelProto, recipe: Recipe) -> Placement:
    """What to quantise of a prepared graph, as the recipe has it."""
    placement = place(source, keep=_kept_by_name(place(source), recipe.keep))
    _require_layers(placement)
    return placement


def _without(silent: Collection[str], source: ModelProto, placement: Placement) -> Placement:
    """The same without tensors that calibration saw no value of: any scale would cut their first one off."""
    already = {node.name: node.reason for node in placement.kept}
    reading = {layer.name: ZERO for layer in placement.layers if layer.activation in silent}
    process.warn(
        f"{len(silent)} tensors, such as {min(silent)!r}, were zero on all calibration images: what reads "
        "them stays in floating point. Are the images of the kind that the network is for?"
    )
    scaled = set(placement.activations) - set(silent)
    found = place(source, keep=already | reading, scaled=scaled)
    _require_layers(found)
    return found


def _require_layers(placement: Placement) -> None:
    if not placement.layers:
        reasons = sorted({node.reason for node in placement.kept}) or ["it has no layer with weights"]
        raise ExportError(f"There is nothing to quantise in this graph: {'; '.join(reasons)}.")


def _with_kept(now: Quantisation, judge: Judge) -> tuple[Quantisation, list[Trial]]:
    """The same with the groups of layers left in floating point for which that pays."""
    lab = Laboratory(now.model, now.weights, judge, now.kind)
    chosen, trials = choose_kept(lab, now.placement, now.scales)
    already = {node.name: node.reason for node in now.placement.kept}
    return replace(now, placement=place(now.model, keep=already | chosen, scaled=now.scales)), trials


def prepared_for(model: ModelProto, kind: EightBit) -> ModelProto:
    """A graph in the form that calibration works on: at the opset it needs, weights and batch norms folded.

    Raises:
        ExportError: as `require_quantisable`, or its opset cannot be raised.
    """
    require_quantisable(model)
    return folded(constant_weights(onnx_graph.prepared(model, opset=EIGHT_BIT_TYPES[kind].least_opset)))


def require_quantisable(model: ModelProto) -> None:
    """Look at the operators of a graph, before any image is read.

    Raises:
        ExportError: it has Q/DQ nodes already, or an operator that nobody here knows.
    """
    quantised = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    if quantised:
        raise ExportError(
            f"This graph is quantised already: it has {len(quantised)} Q/DQ nodes.",
            hint="Name the FP32 graph that it was made from.",
        )
    own = {(function.domain, function.name) for function in model.functions}
    opset = onnx_graph.opset_of(model)
    for node in model.graph.node:
        standard = node.domain in ("", "ai.onnx")
        known = onnx.defs.has(node.op_type, opset, "") if standard else node.domain in _RUN_BY_ONNX_RUNTIME
        if not known and (node.domain, node.op_type) not in own:
            raise ExportError(
                f"The graph has an operator that ONNX Runtime does not know: {node.domain or 'ai.onnx'}::"
                f"{node.op_type} (node {node.name or node.output[0]!r}).",
                hint="Export it with standard operators.",
            )


def rounded_weights(
    source: ModelProto, layers: Sequence[Layer], kind: EightBit, method: WeightMethod
) -> dict[str, QuantisedWeight]:
    """Every layer's weight in eight bits, rounded to nearest; see `quantised_weight`.

    Raises:
        ExportError: a weight is not finite.
    """
    tensors = {tensor.name: tensor for tensor in source.graph.initializer}
    found: dict[str, QuantisedWeight] = {}
    for layer in layers:
        values = numpy_helper.to_array(tensors[layer.weight])
        if not np.isfinite(values).all():
            raise ExportError(f"The weight {layer.weight!r} holds a NaN or an infinity.")
        found[layer.weight] = quantised_weight(values, layer.axis, kind, method)
    return found


def _kept_by_name(placement: Placement, patterns: Sequence[str]) -> dict[str, str]:
    names = [layer.name for layer in placement.layers]
    kept: dict[str, str] = {}
    for pattern in patterns:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise UsageError(
                f"--keep {pattern} matches no layer of the graph.", hint=did_you_mean(pattern, names)
            )
        kept |= dict.fromkeys(matched, f"asked for: --keep {pattern}")
    return kept


def _names_of(model: ModelProto) -> set[str]:
    """Every tensor of a graph."""
    graph = model.graph
    return all_names(graph.node) | {each.name for each in (*graph.input, *graph.initializer)}
