"""The child's side of `QuantizeStep`: calibrate, place Q/DQ nodes, keep the accuracy, prove it."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import onnx

from bbx import artifact, process
from bbx.artifact import Manifest, sha256_of
from bbx.calibration.accuracy import Accuracy, accuracy_of
from bbx.calibration.accuracy_control import Controlled, controlled
from bbx.calibration.agreement import tolerance_of
from bbx.calibration.data.dataset import CalibrationSet, calibration_set
from bbx.calibration.data.options import CalibrationOptions
from bbx.calibration.judged import Feeds
from bbx.calibration.quantise import Images, Quantised, Recipe, quantised_from_onnx, require_quantisable
from bbx.calibration.refine.steps import Gain
from bbx.calibration.scales import read_scales, scales_from_graph, write_scales
from bbx.exporter import verify
from bbx.exporter.judging import judge
from bbx.exporter.onnx_io import check_onnx, graph_specs, save_onnx
from bbx.pipeline.cases import guess_preprocess, parity_cases
from bbx.pipeline.documents import Proven, Stopwatch, settle
from bbx.pipeline.quantize_step import QuantizeStep
from bbx.pipeline.typed import manifest_of, task_of
from bbx.runners.ort import OrtRunner
from bbx.types import Preprocess, Task, TensorSpec

_JUDGED: dict[Task, int] = {"classification": 48, "detection": 8, "segmentation": 8}
"""Held-out images by which choices are made: each choice runs the network on all of them."""


def quantize_task(request: dict[str, Any]) -> dict[str, Any]:
    """Make the artefact of a `QuantizeStep`; see `bbx.process.run_task`.

    Raises:
        CheckFailed: parity failed, or the accuracy budget cannot be met; the artefact is kept under a name
            that says so.
        BbxError: as the parts.
    """
    step, path = QuantizeStep.from_request(request["step"]), Path(request["path"])
    stopwatch = Stopwatch()
    with process.collecting_warnings() as warnings, artifact.staged(path) as staging:
        artifact.check_external_data(step.source)
        parent = manifest_of(step.source)
        model = onnx.load(str(step.source))
        require_quantisable(model)
        inputs, outputs = graph_specs(model, step.source.name)
        data = _data(step, inputs, parent)
        stopwatch.lap("build")
        made = _quantised(step, model, data, parent)
        stopwatch.lap("export")
        staged = staging / path.name
        save_onnx(made.model, staged)
        check_onnx(staged)
        process.progress("verify", detail="parity on photographs and held-out images")
        parity = _parity(step, staged, data, parent)
        stopwatch.lap("verify")
        facts = _facts(step, path, made, data, stopwatch.seconds()["export"])
        proven = Proven(
            step=step,
            fingerprint=step.fingerprint(),
            model=parent.model if parent else str(step.source),
            weights=parent.weights if parent else "file",
            inputs=inputs,
            outputs=outputs,
            preprocess=parent.preprocess if parent else data.record.preprocess,
            postprocess=parent.postprocess if parent else None,
            parity=parity,
            stopwatch=stopwatch,
            warnings=[*(parent.document.get("warnings", ()) if parent else ()), *warnings],
            precision=step.precision,
            parent_sha256=sha256_of(step.source),
            facts=facts,
            failure=_failure(step, made),
        )
        data.record.write(Path(facts["calibration"]["record"]))
        write_scales(Path(facts["calibration"]["scales"]), scales_from_graph(made.model))
        return settle(staging, path, proven).document


@dataclass(frozen=True, slots=True)
class _Made:
    """A quantised graph, and what accuracy control had to say about it."""

    quantised: Quantised
    accuracy: Accuracy
    controlled: Controlled

    @property
    def model(self) -> onnx.ModelProto:
        """The graph that is written."""
        return self.controlled.model


def _data(step: QuantizeStep, inputs: tuple[TensorSpec, ...], parent: Manifest | None) -> CalibrationSet:
    process.progress("images", detail=step.data.source or "noise")
    return calibration_set(step.data, inputs, _preprocess(inputs, parent))


def _preprocess(inputs: tuple[TensorSpec, ...], parent: Manifest | None) -> Preprocess | None:
    """How an image becomes the input: the manifest knows; of a graph without one it is guessed."""
    return parent.preprocess if parent else guess_preprocess(inputs)


def _quantised(
    step: QuantizeStep, model: onnx.ModelProto, data: CalibrationSet, parent: Manifest | None
) -> _Made:
    most = _JUDGED[task_of(parent)]
    held_out = partial(_first, data, "held_out", most)
    scales = {} if step.scales is None else read_scales(step.scales)
    recipe = Recipe(
        kind=step.precision, method=step.method, keep=step.keep, scales=scales, refine=step.refine
    )
    calibrated = len(data.images("calibration"))
    images = Images(lambda: data.batches(split="calibration"), held_out, calibrated)
    quantised = quantised_from_onnx(model, recipe, images)
    judged, labels = _judged_by(step, data, model, parent, held_out)
    accuracy = accuracy_of(model, judged, parent.postprocess if parent else None, labels)
    # Without a budget whatever drop there is is allowed.
    budget = 1.0 if step.max_drop is None else step.max_drop
    return _Made(quantised, accuracy, controlled(quantised, accuracy, budget))


def _first(data: CalibrationSet, split: Any, most: int) -> Iterator[Feeds]:
    return islice(data.batches(split=split), max(1, most // data.record.batch))


def _judged_by(
    step: QuantizeStep,
    data: CalibrationSet,
    model: onnx.ModelProto,
    parent: Manifest | None,
    held_out: Any,
) -> tuple[Any, list[int] | None]:
    """The images of the accuracy figure, and their labels where the network's classes are the folders'."""
    if step.data.evaluation is None:
        shown = sum(next(iter(batch.values())).shape[0] for batch in held_out())
        return held_out, _labels(data, parent, "held_out", shown)
    inputs, _ = graph_specs(model)
    options = CalibrationOptions(
        source=step.data.evaluation, images=10**9, seed=step.data.seed, batch=step.data.batch
    )
    evaluation = calibration_set(options, inputs, _preprocess(inputs, parent))
    return partial(evaluation.batches, split="all"), _labels(evaluation, parent, "all", len(evaluation))


def _labels(data: CalibrationSet, parent: Manifest | None, split: Any, count: int) -> list[int] | None:
    """Class numbers of the first images of a part; None where they are not known for all of them.

    Labels that a list or an array gives are the numbers themselves; where there are as many class folders
    as the network has classes, they count in alphabetical order, as in torchvision's `ImageFolder`.
    """
    names = [image.labels for image in data.images(split)[:count]]
    postprocess = parent.postprocess if parent else None
    if postprocess is None or postprocess.task != "classification":
        return None
    if not all(len(each) == 1 for each in names):
        return None
    classes = data.record.classes
    if data.record.source != "folder" and all(name.isdecimal() for (name,) in names):
        return [int(name) for (name,) in names]
    if len(classes) != postprocess.num_classes:
        return None
    order = {name: index for index, name in enumerate(classes)}
    return [order[name] for (name,) in names]


def _parity(step: QuantizeStep, staged: Path, data: CalibrationSet, parent: Manifest | None) -> verify.Parity:
    """The quantised graph, computed as written, against the FP32 graph, on images that no range came from."""
    postprocess = parent.postprocess if parent else None
    with OrtRunner(step.source) as reference:
        cases = list(_cases(reference.inputs, data, parent))
        references = verify.reference_outputs(cases, reference.infer)
    with OrtRunner(staged, exact=True) as candidate:
        parity = judge(
            cases,
            references,
            candidate.infer,
            step.precision,
            postprocess,
            against=f"{step.source.name} (fp32)",
            random_weights=parent is not None and parent.weights == "random",
            tolerance=tolerance_of(step.precision, postprocess),
        )
    untrained = parent is not None and parent.weights == "random"
    if parity.verdict == "fail" and (untrained or data.record.random):
        why = "Random weights have no answer" if untrained else "Noise calibrates for no image"
        return replace(parity, verdict="inconclusive", reasons=(f"{why} to keep: {parity.reasons[0]}",))
    return parity


def _cases(
    inputs: tuple[TensorSpec, ...], data: CalibrationSet, parent: Manifest | None
) -> Iterable[verify.Case]:
    for batch in islice(data.batches(split="held_out"), 2):
        rows = next((len(array) for array in batch.values() if array.ndim), 1)
        yield verify.Case(rows, "held-out images", batch)
    preprocess = parent.preprocess if parent else data.record.preprocess
    if preprocess is None or data.record.random:
        return
    sizes = tuple(dict.fromkeys([inputs[0].shape[0]] if inputs[0].shape[0] else [1, data.record.batch]))
    for case in parity_cases(inputs, preprocess, sizes, task=task_of(parent)):
        if case.input == "photographs":  # noise is no image, and the scales are for images
            yield case


def _failure(step: QuantizeStep, made: _Made) -> str:
    if step.max_drop is None or made.controlled.met:
        return ""
    return (
        f"The accuracy budget cannot be met: {made.accuracy.name} falls by {made.controlled.drop:.2%} at "
        f"best, and --max-drop allows {step.max_drop:.2%}."
    )


def _facts(
    step: QuantizeStep, path: Path, made: _Made, data: CalibrationSet, seconds: float
) -> dict[str, Any]:
    """What the document says besides what every artefact's does."""
    quantised, control = made.quantised, made.controlled
    put_back = {layer.name for layer in control.put_back}
    layers = quantised.placement.layers
    kept = [asdict(node) for node in quantised.kept]
    kept += [
        {"name": layer.name, "op_type": layer.op_type, "reason": "accuracy budget"}
        for layer in layers
        if layer.name in put_back
    ]
    groups = quantised.placement.roles
    methods: dict[str, str] = {}
    for name, method in quantised.methods.items():
        methods.setdefault(groups[name], method)
    return {
        "calibration": {
            "method": step.method,
            "methods": methods,
            "images": len(data.images("calibration")),
            "held_out": len(data.images("held_out")),
            "random": data.record.random,
            "manifest_sha256": data.record.sha256,
            "record": str(path.with_name(f"{path.stem}.calibration.json")),
            "scales": str(path.with_name(f"{path.stem}.scales.json")),
            "findings": [asdict(finding) for finding in data.findings],
            "seconds": seconds,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        },
        "quantized_nodes": [layer.name for layer in layers if layer.name not in put_back],
        "kept_nodes": kept,
        "kept": kept,
        "error": {"rel_l2": quantised.error, "trials": [asdict(trial) for trial in quantised.trials]},
        "refinement": [_gain_json(gain) for gain in quantised.gains],
        "equalised": [list(each.tensors) for each in quantised.equalised],
        "accuracy": {
            "metric": made.accuracy.name,
            "of": made.accuracy.of,
            "fp32": made.accuracy.baseline,
            step.precision: made.accuracy.baseline - control.drop,
            "drop": control.drop,
            "before_control": control.before,
            "max_drop": step.max_drop,
            "met": None if step.max_drop is None else control.met,
            "put_back": [asdict(layer) for layer in control.put_back],
        },
    }


def _gain_json(gain: Gain) -> dict[str, Any]:
    return {**asdict(gain), "kept": gain.kept}
