"""The child's side of `TypedStep`: scan ranges on photographs, retype the graph, prove it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import onnx

from bbx import artifact, process
from bbx.artifact import Manifest, sha256_of
from bbx.calibration.agreement import tolerance_of
from bbx.calibration.ranges import activation_ranges
from bbx.errors import ArtifactError
from bbx.exporter import verify
from bbx.exporter.emulate import emulated_from_typed
from bbx.exporter.heads import unsorted_heads
from bbx.exporter.judging import judge
from bbx.exporter.onnx_io import check_onnx, graph_specs, save_onnx
from bbx.exporter.parts import giving
from bbx.exporter.to_typed import TypedGraph, typed_from_onnx
from bbx.pipeline.cases import fixed_batch, parity_cases
from bbx.pipeline.documents import Proven, Stopwatch, settle
from bbx.pipeline.steps import TypedStep
from bbx.runners.ort import OrtRunner
from bbx.types import Task, TensorSpec

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
        process.progress("scan", detail="ranges on photographs and noise")
        # Q/DQ nodes as written: fused into integer kernels they would round in other places.
        with OrtRunner(step.source, exact=True) as reference:
            cases = _cases(reference.inputs, parent)
            references = verify.reference_outputs(cases, reference.infer)
            rows = _rows(reference.inputs, cases)
        ranges = activation_ranges(step.source, rows)
        stopwatch.lap("build")
        process.progress("retype", detail=step.precision)
        typed = typed_from_onnx(onnx.load(str(step.source)), step.precision, ranges, half_io=step.half_io)
        staged = staging / path.name
        save_onnx(typed.model, staged)
        check_onnx(staged)
        stopwatch.lap("export")
        process.progress("verify", detail="parity on photographs and noise")
        parity = _parity(step, typed, staged, parent, cases=cases, references=references)
        if parity.verdict == "inconclusive" and task_of(parent) == "detection":
            parity = _parity_of_heads(step, typed, cases, parity)
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
            precision=parent.precision if _is_quantised(parent) else step.precision,
            parent_sha256=sha256_of(step.source),
            facts=_facts(typed, parent),
        )
        return settle(staging, path, proven).document


def _is_quantised(parent: Manifest | None) -> TypeGuard[Manifest]:
    return parent is not None and parent.precision in ("int8", "fp8")


def _facts(typed: TypedGraph, parent: Manifest | None) -> dict[str, Any]:
    """What the document says besides the usual; of a quantised graph, its calibration too."""
    document = parent.document if _is_quantised(parent) else {}
    inherited = {key: document[key] for key in _OF_CALIBRATION if key in document}
    return inherited | {"kept": [asdict(node) for node in typed.kept], "converted": typed.converted}


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
    return parity_cases(inputs, parent.preprocess if parent else None, batches, task=task_of(parent))


def _rows(inputs: tuple[TensorSpec, ...], cases: list[verify.Case]) -> list[verify.Arrays]:
    """The feeds of all cases, image by image where the batch is free: a scan may hold all activations."""
    if fixed_batch(inputs) is not None or not all(spec.shape for spec in inputs):
        return [case.feeds for case in cases]
    return [
        {name: feed[row : row + 1] for name, feed in case.feeds.items()}
        for case in cases
        for row in range(case.batch)
    ]


def task_of(manifest: Manifest | None) -> Task:
    """What a graph's outputs mean; those of a graph without a manifest are taken for a classifier's."""
    return manifest.postprocess.task if manifest and manifest.postprocess else "classification"


def _parity(
    step: TypedStep,
    typed: TypedGraph,
    staged: Path,
    parent: Manifest | None,
    *,
    cases: list[verify.Case],
    references: list[dict[str, Any]],
) -> verify.Parity:
    """Judge the typed graph by its emulation in FP32, which rounds to 16 bits after every node.

    No CPU runtime has BF16 kernels, and ONNX Runtime computes FP16 graphs in FP32 on a CPU and takes the
    casts between nodes out, so that it would see neither rounding nor overflow. That it loads them is seen.
    """
    compared = partial(_compared, cases=cases, references=references, step=step, parent=parent)
    if step.precision == "fp16":
        with OrtRunner(staged):
            process.progress("verify", detail="ONNX Runtime takes the FP16 graph")
    with tempfile.TemporaryDirectory(dir=staged.parent, prefix="emulation-") as folder:
        emulation = Path(folder) / staged.name
        save_onnx(emulated_from_typed(typed.model), emulation)
        return compared(emulation)


def _parity_of_heads(
    step: TypedStep, typed: TypedGraph, cases: list[verify.Case], detections: verify.Parity
) -> verify.Parity:
    """What can be judged where detections cannot: a detector's heads, on the photographs and the noise.

    Returns:
        The verdict on the heads, with their distances beside those of the detections.
    """
    source = onnx.load(str(step.source))
    candidate = emulated_from_typed(typed.model)
    heads = unsorted_heads(source)
    if not heads:
        return detections
    singles = [case for case in cases if case.batch == cases[0].batch]
    with tempfile.TemporaryDirectory(prefix="bbx-heads-") as folder:
        answers = [
            _answers(giving(model, heads), Path(folder) / f"{name}.onnx", singles)
            for name, model in (("source", source), ("typed", candidate))
        ]
    turn = iter(answers[1])
    found = verify.compare(
        singles,
        answers[0],
        lambda _: next(turn),
        verify.TOLERANCES[step.precision],
        against=f"the heads of {detections.against}",
    )
    return replace(found, cases=(*detections.cases, *found.cases))


def _answers(model: onnx.ModelProto, path: Path, cases: list[verify.Case]) -> list[dict[str, Any]]:
    """A graph's outputs on every case, in float32."""
    save_onnx(model, path)
    with OrtRunner(path, exact=True) as runner:
        dtypes = {spec.name: spec.dtype for spec in runner.inputs}
        return [
            {
                name: value.astype("float32")
                for name, value in runner.infer(
                    {name: feed.astype(dtypes[name]) for name, feed in case.feeds.items()}
                ).items()
            }
            for case in cases
        ]


def _compared(
    path: Path,
    *,
    step: TypedStep,
    parent: Manifest | None,
    cases: list[verify.Case],
    references: list[dict[str, Any]],
) -> verify.Parity:
    with OrtRunner(path, exact=True) as runner:
        dtypes = {spec.name: spec.dtype for spec in runner.inputs}

        def infer(feeds: verify.Arrays) -> verify.Arrays:
            return runner.infer({name: feed.astype(dtypes[name]) for name, feed in feeds.items()})

        postprocess = parent.postprocess if parent else None
        quantised = _is_quantised(parent)
        against = f"its {'Q/DQ' if quantised else 'FP32'} graph {step.source.name}"
        return judge(
            cases,
            references,
            infer,
            step.precision,
            postprocess,
            against=against,
            random_weights=parent is not None and parent.weights == "random",
            # Where 16 bits fall on the other side of a rounding, an eight-bit value is another one.
            tolerance=tolerance_of(parent.precision, postprocess) if parent and quantised else None,
        )
