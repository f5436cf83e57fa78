"""The child's side of `QuantizeStep`: calibrate, place Q/DQ nodes, keep the accuracy, prove it."""

from __future__ import annotations

import resource
import shlex
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from bbx import artifact, process
from bbx.artifact import Manifest, sha256_of
from bbx.calibration.accuracy import Accuracy, accuracy_of
from bbx.calibration.accuracy_control import Controlled, controlled
from bbx.calibration.data.dataset import CalibrationSet, calibration_set
from bbx.calibration.quantise import Images, Quantised, Recipe, quantised_from_onnx, require_quantisable
from bbx.calibration.refine.steps import Gain
from bbx.calibration.scales import read_scales, scales_from_graph, write_scales
from bbx.calibration.to_qdq import EIGHT_BIT_TYPES
from bbx.exporter.onnx_io import check_onnx, graph_specs, save_onnx
from bbx.pipeline.documents import Proven, Stopwatch, settle
from bbx.pipeline.ensure import failed_path
from bbx.pipeline.quantize_accuracy import JUDGED, first_batches, judged_by, preprocess_of
from bbx.pipeline.quantize_parity import quantised_parity
from bbx.pipeline.quantize_step import QuantizeStep
from bbx.pipeline.typed import manifest_of
from bbx.pipeline.typed_parity import task_of
from bbx.types import TensorSpec


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
        made = _quantised(step, model, inputs, data, parent)
        stopwatch.lap("export")
        staged = staging / path.name
        save_onnx(made.model, staged)
        check_onnx(staged)
        process.progress("verify", detail="parity on held-out images")
        parity = quantised_parity(step, staged, made.quantised.judge, data, parent)
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
            hint=_hint(step, path),
        )
        data.record.write(Path(facts["calibration"]["record"]))
        write_scales(Path(facts["calibration"]["scales"]), scales_from_graph(made.model))
        return settle(staging, path, proven).document


def _hint(step: QuantizeStep, path: Path) -> str:
    """What to type where parity is lost."""
    command = shlex.join(["bbx", "bisect", str(failed_path(path)), "--against", str(step.source)])
    refine = "" if step.refine else "Type --refine to round the weights anew. "
    return f"{refine}{command} names the layers to --keep, and writes the graph with them in floating point."


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
    return calibration_set(step.data, inputs, preprocess_of(inputs, parent))


def _quantised(
    step: QuantizeStep,
    model: onnx.ModelProto,
    inputs: tuple[TensorSpec, ...],
    data: CalibrationSet,
    parent: Manifest | None,
) -> _Made:
    stored_in = EIGHT_BIT_TYPES[step.precision].dtype.name
    scales = {} if step.scales is None else read_scales(step.scales, dtype=stored_in)
    recipe = Recipe(
        kind=step.precision, method=step.method, keep=step.keep, scales=scales, refine=step.refine
    )
    calibrated = len(data.images("calibration"))
    held_out = partial(first_batches, data, "held_out", JUDGED[task_of(parent)])
    images = Images(lambda: data.batches(split="calibration"), held_out, calibrated)
    quantised = quantised_from_onnx(model, recipe, images)
    judged = judged_by(step.data, data, inputs, parent)
    postprocess = parent.postprocess if parent else None
    accuracy = accuracy_of(model, judged.batches, postprocess, judged.labels, judged.truth)
    if judged.metric not in (None, accuracy.name):
        known = "labels" if judged.truth is None else "annotations"
        process.warn(
            f"FP32 has a {judged.metric} of 0 by the {known}, so agreement with it judges ({accuracy.name}). "
            "Its classes may be numbered in another way."
        )
    # Without a budget whatever drop there is is allowed.
    budget = 1.0 if step.max_drop is None else step.max_drop
    return _Made(quantised, accuracy, controlled(quantised, accuracy, budget))


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
        "error": {"rel_l2": control.error, "trials": [asdict(trial) for trial in quantised.trials]},
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
