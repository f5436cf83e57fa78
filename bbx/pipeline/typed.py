"""The child's side of `TypedStep`: scan ranges on photographs, retype the graph, prove it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from bbx import artifact, process
from bbx.artifact import Manifest, sha256_of
from bbx.calibration.ranges import activation_ranges
from bbx.errors import ArtifactError
from bbx.exporter import verify
from bbx.exporter.onnx_io import check_onnx, graph_specs, save_onnx
from bbx.exporter.to_typed import TypedGraph, typed_from_onnx
from bbx.memory import give_back
from bbx.pipeline.cases import fixed_batch, parity_cases
from bbx.pipeline.documents import Proven, Stopwatch, settle
from bbx.pipeline.held_out import held_out_of
from bbx.pipeline.steps import TypedStep
from bbx.pipeline.typed_parity import Judged, is_quantised, task_of
from bbx.runners.ort import OrtRunner
from bbx.types import TensorSpec

_OF_CALIBRATION = ("calibration", "quantized_nodes", "kept_nodes", "error", "accuracy", "refinement")


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
        process.progress("scan", detail="ranges")
        # Q/DQ nodes as written: fused into integer kernels they would round in other places.
        with OrtRunner(step.source, exact=True) as reference:
            inputs, sizes = reference.inputs, _sizes(reference.inputs)
            usual = parity_cases(inputs, parent.preprocess if parent else None, sizes, task=task_of(parent))
            held_out = held_out_of(step.source, parent, inputs, sizes)
            cases = held_out or usual
            references = verify.reference_outputs(cases, reference.infer)
            rows = _rows(inputs, [*held_out, *usual])
        ranges = activation_ranges(step.source, rows)
        stopwatch.lap("build")
        process.progress("retype", detail=step.precision)
        typed = typed_from_onnx(onnx.load(str(step.source)), step.precision, ranges, half_io=step.half_io)
        give_back()
        staged = staging / path.name
        save_onnx(typed.model, staged)
        check_onnx(staged)
        stopwatch.lap("export")
        process.progress("verify", detail=f"parity on {cases[0].input}")
        parity = Judged(step, typed, staged, parent, cases, references).parity()
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
            postprocess=parent.postprocess if parent else None,
            parity=parity,
            stopwatch=stopwatch,
            warnings=[*(parent.document.get("warnings", ()) if parent else ()), *warnings],
            precision=parent.precision if is_quantised(parent) else step.precision,
            parent_sha256=sha256_of(step.source),
            facts=_facts(typed, parent),
        )
        return settle(staging, path, proven).document


def _facts(typed: TypedGraph, parent: Manifest | None) -> dict[str, Any]:
    """What the document says besides the usual; of a quantised graph, its calibration too."""
    document = parent.document if is_quantised(parent) else {}
    inherited = {key: document[key] for key in _OF_CALIBRATION if key in document}
    return inherited | {"kept": [asdict(node) for node in typed.kept], "converted": typed.converted}


def manifest_of(path: Path) -> Manifest | None:
    """The manifest beside a graph, if it is true to the graph; somebody else's JSON is no manifest."""
    try:
        manifest = artifact.read_manifest(path)
    except ArtifactError:
        return None
    return manifest if manifest is not None and manifest.sha256 == sha256_of(path) else None


def _sizes(inputs: tuple[TensorSpec, ...]) -> tuple[int, ...]:
    """Batches to compare at."""
    batch = fixed_batch(inputs)
    return verify.batches_to_try(batch or verify.EXAMPLE_BATCH, fixed=batch is not None)


def _rows(inputs: tuple[TensorSpec, ...], cases: list[verify.Case]) -> list[verify.Arrays]:
    """The feeds of all cases, image by image where the batch is free: a scan may hold all activations."""
    if fixed_batch(inputs) is not None or not all(spec.shape for spec in inputs):
        return [case.feeds for case in cases]
    return [
        {name: feed[row : row + 1] for name, feed in case.feeds.items()}
        for case in cases
        for row in range(case.batch)
    ]
