"""The child's side of `TypedStep`: scan ranges on photographs, retype the graph, prove it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from bbx import artifact, process
from bbx.artifact import Manifest, sha256_of
from bbx.calibration.ranges import activation_ranges
from bbx.errors import ArtifactError
from bbx.exporter import verify
from bbx.exporter.emulate import emulated_from_typed
from bbx.exporter.onnx_io import check_onnx, graph_specs, save_onnx
from bbx.exporter.to_typed import TypedGraph, typed_from_onnx
from bbx.pipeline.cases import fixed_batch, parity_cases
from bbx.pipeline.documents import Proven, Stopwatch, settle
from bbx.pipeline.steps import TypedStep
from bbx.runners.ort import OrtRunner
from bbx.types import Precision, TensorSpec


def typed_task(request: dict[str, Any]) -> dict[str, Any]:
    """Make the artefact of a `TypedStep`; see `bbx.process.run_task`.

    Raises:
        CheckFailed: parity failed; the artefact is kept under a name that says so.
        BbxError: as the parts.
    """
    step, path = TypedStep.from_request(request["step"]), Path(request["path"])
    stopwatch = Stopwatch()
    with process.collecting_warnings() as warnings, artifact.staged(path) as staging:
        artifact.check_external_data(step.source)
        parent = manifest_of(step.source)
        process.progress("scan", detail="ranges on photographs and noise")
        with OrtRunner(step.source) as reference:
            cases = _cases(reference.inputs, parent)
            references = verify.reference_outputs(cases, reference.infer)
        ranges = activation_ranges(step.source, (case.feeds for case in cases))
        stopwatch.lap("build")
        process.progress("retype", detail=step.precision)
        typed = typed_from_onnx(onnx.load(str(step.source)), step.precision, ranges, half_io=step.half_io)
        staged = staging / path.name
        save_onnx(typed.model, staged)
        check_onnx(staged)
        stopwatch.lap("export")
        process.progress("verify", detail="parity on photographs and noise")
        parity = _parity(step, typed, staged, cases, references)
        inputs, outputs = graph_specs(typed.model)
        stopwatch.lap("verify")
        proven = Proven(
            step=step,
            fingerprint=step.fingerprint(),
            model=parent.model if parent else str(step.source),
            weights=parent.weights if parent else "file",
            inputs=inputs,
            outputs=outputs,
            preprocess=parent.preprocess if parent else None,
            parity=parity,
            stopwatch=stopwatch,
            warnings=[*(parent.document.get("warnings", ()) if parent else ()), *warnings],
            precision=step.precision,
            parent_sha256=sha256_of(step.source),
            facts={"kept": [asdict(node) for node in typed.kept], "converted": typed.converted},
        )
        return settle(staging, path, proven).document


def manifest_of(path: Path) -> Manifest | None:
    """The manifest beside a graph, if it is true to the graph; somebody else's JSON is no manifest."""
    try:
        manifest = artifact.read_manifest(path)
    except ArtifactError:
        return None
    return manifest if manifest is not None and manifest.sha256 == sha256_of(path) else None


def _cases(inputs: tuple[TensorSpec, ...], parent: Manifest | None) -> list[verify.Case]:
    batch = fixed_batch(inputs)
    batches = verify.batches_to_try(batch or verify.EXAMPLE_BATCH, fixed=batch is not None)
    return parity_cases(inputs, parent.preprocess if parent else None, batches)


def _parity(
    step: TypedStep,
    typed: TypedGraph,
    staged: Path,
    cases: list[verify.Case],
    references: list[dict[str, Any]],
) -> verify.Parity:
    """Judge the typed graph, or, for BF16, which no CPU kernel takes, its emulation in FP32."""
    against = f"its FP32 graph {step.source.name}"
    if step.precision == "fp16":
        return _compared(staged, cases, references, step.precision, against)
    with tempfile.TemporaryDirectory(dir=staged.parent, prefix="emulation-") as folder:
        emulation = Path(folder) / staged.name
        save_onnx(emulated_from_typed(typed.model), emulation)
        return _compared(emulation, cases, references, step.precision, against)


def _compared(
    path: Path,
    cases: list[verify.Case],
    references: list[dict[str, Any]],
    precision: Precision,
    against: str,
) -> verify.Parity:
    with OrtRunner(path) as runner:
        dtypes = {spec.name: spec.dtype for spec in runner.inputs}

        def infer(feeds: verify.Arrays) -> verify.Arrays:
            return runner.infer({name: feed.astype(dtypes[name]) for name, feed in feeds.items()})

        return verify.compare(cases, references, infer, verify.TOLERANCES[precision], against=against)
