"""The child's side of `ExportStep`: build the module, export it, prove it, put it in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bbx import artifact, process
from bbx.errors import ExportError
from bbx.exporter import verify
from bbx.exporter.judging import judge
from bbx.exporter.onnx_io import check_onnx
from bbx.exporter.to_onnx import onnx_from_module
from bbx.exporter.to_pt2 import pt2_from_module
from bbx.exporter.to_torchscript import torchscript_from_module
from bbx.models.build import Model, build
from bbx.pipeline.cases import parity_cases, size_cases
from bbx.pipeline.documents import Proven, Stopwatch, settle
from bbx.pipeline.steps import ExportStep
from bbx.runners.base import Runner
from bbx.runners.ort import OrtRunner
from bbx.runners.torchscript import Pt2Runner, TorchScriptRunner
from bbx.types import TensorSpec


def export_task(request: dict[str, Any]) -> dict[str, Any]:
    """Make the artefact of an `ExportStep`; see `bbx.process.run_task`.

    Raises:
        CheckFailed: parity failed; the artefact is kept under a name that says so.
        BbxError: as the parts.
    """
    step, path = ExportStep.from_request(request["step"]), Path(request["path"])
    stopwatch = Stopwatch()
    process.progress("build", detail=step.spec.name)
    with process.collecting_warnings() as warnings, artifact.staged(path) as staging:
        model = build(step.spec)
        stopwatch.lap("build")
        inputs, outputs = _specs(model, step)
        process.progress("export", detail=step.format)
        facts = _write(step, model, inputs, staging / path.name)
        stopwatch.lap("export")
        process.progress("verify", detail="parity on photographs and noise")
        with _open(step, staging / path.name, inputs, outputs) as runner:
            parity = _parity(step, model, runner)
            inputs, outputs = runner.inputs, runner.outputs
        stopwatch.lap("verify")
        proven = Proven(
            step=step,
            fingerprint=step.fingerprint(),
            model=step.spec.name,
            weights=model.weights,
            inputs=inputs,
            outputs=outputs,
            preprocess=model.preprocess,
            postprocess=model.postprocess,
            parity=parity,
            stopwatch=stopwatch,
            warnings=warnings,
            facts={**facts, "notes": [*model.notes, *facts["notes"], *_brief(step)]},
        )
        return settle(staging, path, proven).document


def _brief(step: ExportStep) -> list[str]:
    """What the user should know of a proof that is less than usual."""
    sizes = ", ".join(map(str, step.proven_at))
    return [f"Parity was shown at batch {sizes} only: `bbx export` shows it at others."] if sizes else []


def _specs(model: Model, step: ExportStep) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the artefact will have them: batch fixed or dynamic, size as asked."""

    def fixed(spec: TensorSpec) -> TensorSpec:
        return TensorSpec(spec.name, spec.dtype, (step.batch, *spec.shape[1:]))

    return tuple(map(fixed, model.inputs)), tuple(map(fixed, model.outputs))


def _write(step: ExportStep, model: Model, inputs: tuple[TensorSpec, ...], out: Path) -> dict[str, Any]:
    """Write the artefact; gives what the document says about how."""
    if step.format == "torchscript":
        method, notes = torchscript_from_module(model.module, inputs, out, batch=step.batch)
        return {"method": method, "notes": notes}
    if step.format == "pt2":
        pt2_from_module(model.module, inputs, out, batch=step.batch)
        return {"notes": ()}
    names = tuple(spec.name for spec in model.outputs)
    export = onnx_from_module(model.module, inputs, names, step.onnx_options, out)
    check_onnx(out)
    return {"exporter": export.exporter, "opset": export.opset, "notes": export.notes}


def _open(
    step: ExportStep, path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Runner:
    match step.format:
        case "onnx":
            return OrtRunner(path)
        case "torchscript":
            return TorchScriptRunner(path, inputs, outputs, trust=True)
        case "pt2":
            return Pt2Runner(path, inputs, outputs, trust=True)


def _parity(step: ExportStep, model: Model, runner: Runner) -> verify.Parity:
    usual = verify.batches_to_try(step.batch or verify.EXAMPLE_BATCH, fixed=step.batch is not None)
    batches = step.proven_at or usual
    task = model.postprocess.task if model.postprocess else "classification"
    cases = parity_cases(runner.inputs, model.preprocess, batches, task=task)
    if step.dynamic_size:
        cases += size_cases(runner.inputs, model.preprocess)
    references = []
    for case in cases:
        try:
            references += verify.reference_outputs([case], lambda feeds: module_outputs(model, feeds))
        except Exception as error:
            if step.dynamic_size:  # at its own size the module ran while it was exported
                raise ExportError(
                    f"{step.spec.name} takes no other image size than {model.preprocess.height}.",
                    hint="Leave --dynamic-size out, or set --image-size.",
                ) from error
            raise
    owner = "torch" if model.reference is None else "torchvision"
    return judge(
        cases, references, runner.infer, "fp32", model.postprocess, against=f"{owner} ({step.spec.name})"
    )


def module_outputs(model: Model, feeds: verify.Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """The right outputs by name, on the CPU: the reference's where the model has one, else the module's."""
    module = model.reference or model.module
    with torch.inference_mode():
        answer = module(*(torch.from_numpy(feeds[spec.name]) for spec in model.inputs))
    values = answer if isinstance(answer, tuple | list) else (answer,)
    return {spec.name: value.numpy() for spec, value in zip(model.outputs, values, strict=True)}
