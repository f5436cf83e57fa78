"""The child's side of `EngineStep`: compile, read the precision back, run the engine where it can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from bbx import artifact, process
from bbx.artifact import Manifest, sha256_of
from bbx.errors import CheckFailed
from bbx.exporter import verify
from bbx.exporter.engine_options import EngineOptions, current_target, parse_profile
from bbx.exporter.inspector import inspect_engine
from bbx.exporter.judging import judge
from bbx.exporter.onnx_io import graph_specs
from bbx.exporter.plan_weights import weights_in_plan
from bbx.exporter.precision import PrecisionProof, precision_proof
from bbx.exporter.to_engine import EngineBuild, engine_from_onnx
from bbx.pipeline.cases import fixed_batch, parity_cases
from bbx.pipeline.documents import Stopwatch, weights_json
from bbx.pipeline.ensure import commit_checked
from bbx.pipeline.held_out import held_out_of
from bbx.pipeline.steps import EngineStep
from bbx.pipeline.typed import manifest_of
from bbx.pipeline.typed_parity import task_of
from bbx.runners.ort import OrtRunner
from bbx.runners.trt import TrtRunner
from bbx.types import SCHEMA


def engine_task(request: dict[str, Any]) -> dict[str, Any]:
    """Make the artefact of an `EngineStep`; see `bbx.process.run_task`.

    Raises:
        CheckFailed: the engine has another precision than was asked for, or another answer than its
            graph; it is kept under a name that says so.
        BbxError: as the parts.
    """
    step, path = EngineStep.from_request(request["step"]), Path(request["path"])
    stopwatch = Stopwatch()
    with process.collecting_warnings() as warnings, artifact.staged(path) as staging:
        artifact.check_external_data(step.source)
        parent = manifest_of(step.source)
        model = onnx.load(str(step.source))
        build = engine_from_onnx(step.source, _options(step, model), staging / path.name)
        stopwatch.lap("build")
        process.progress("verify", detail="precision")
        proof = _precision(step, model, build, parent, staging / path.name)
        parity = _parity(step, model, build, parent, staging / path.name)
        stopwatch.lap("verify")
        document = _document(step, build, proof, parity, parent) | {
            "seconds": stopwatch.seconds(),
            "warnings": [*(parent.document.get("warnings", ()) if parent else ()), *warnings],
        }
        passed = proof.verdict == "pass" and parity["verdict"] != "fail"
        describe = _describer(step, model, parent, staging, document)
        manifest = commit_checked(staging, path, describe, passed=passed)
    _require(proof, parity, manifest)
    return manifest.document


def _options(step: EngineStep, model: onnx.ModelProto) -> EngineOptions:
    inputs, _ = graph_specs(model, step.source.name)
    return EngineOptions(
        flavor=step.flavor,
        targets=step.targets,
        profiles=tuple(parse_profile(text, inputs) for text in step.profiles),
        workspace_bytes=step.workspace_bytes,
        refit=step.refit,
        strip=step.strip,
        tf32=step.tf32,
    )


def _describer(
    step: EngineStep,
    model: onnx.ModelProto,
    parent: Manifest | None,
    staging: Path,
    document: dict[str, Any],
) -> Callable[[Path], Manifest]:
    """Makes the manifest once it is known under which name the engine is kept."""
    inputs, outputs = graph_specs(model)

    def describe(final: Path) -> Manifest:
        staged = staging / final.name
        size = staged.stat().st_size
        return artifact.make_manifest(
            staging,
            file=final.name,
            format="engine",
            precision=step.precision,
            inputs=inputs,
            outputs=outputs,
            preprocess=parent.preprocess if parent else None,
            postprocess=parent.postprocess if parent else None,
            model=parent.model if parent else str(step.source),
            weights=parent.weights if parent else "file",
            request=step.to_request(),
            fingerprint=step.fingerprint(),
            parent_sha256=document["source_sha256"],
            tools=artifact.tool_versions(*step.tools),
            targets=tuple(document["targets"]),
            command=step.command,
            document=document | {"engine": str(final), "sha256": sha256_of(staged), "bytes": size},
        )

    return describe


def _precision(
    step: EngineStep, model: onnx.ModelProto, build: EngineBuild, parent: Manifest | None, plan: Path
) -> PrecisionProof:
    kept = parent.document.get("kept", ()) if parent else ()
    weights = None if step.strip else weights_in_plan(model, plan.read_bytes())
    inspected = inspect_engine(plan, step.flavor) if current_target() in build.targets else None
    return precision_proof(
        step.precision, build.network, weights, kept=[node["name"] for node in kept], inspected=inspected
    )


def _parity(
    step: EngineStep, model: onnx.ModelProto, build: EngineBuild, parent: Manifest | None, plan: Path
) -> dict[str, Any]:
    """The engine against ONNX Runtime where it can run; else what its graph's manifest proved."""
    if current_target() not in build.targets:
        return {"of": "graph", "ran": False, **_graph_parity(step, parent)}
    inputs, _ = graph_specs(model)
    batch = fixed_batch(inputs)
    sizes = (batch,) if batch is not None else _profiled_batches(build)
    cases = held_out_of(step.source, parent, inputs, sizes) or parity_cases(
        inputs, parent.preprocess if parent else None, sizes, task=task_of(parent)
    )
    with OrtRunner(step.source) as reference:
        references = verify.reference_outputs(cases, reference.infer)
    postprocess = parent.postprocess if parent else None
    # TF32 keeps as many significant bits as FP16.
    precision = "fp16" if step.tf32 else step.precision
    with TrtRunner(plan, flavor=step.flavor, trust=True) as runner:
        parity = judge(
            cases,
            references,
            runner.infer,
            precision,
            postprocess,
            against=f"{step.source.name} in ONNX Runtime",
            random_weights=parent is not None and parent.weights == "random",
        )
    return {"of": "engine", "ran": True, **parity.to_json()}


def _profiled_batches(build: EngineBuild) -> tuple[int, ...]:
    """Smallest, best and largest batch of the first profile."""
    first = build.profiles[0].inputs[0]
    return tuple(dict.fromkeys(shape[0] for shape in (first.min, first.opt, first.max)))


def _graph_parity(step: EngineStep, parent: Manifest | None) -> dict[str, Any]:
    if parent is not None:
        parity: dict[str, Any] = parent.document["parity"]
        return parity
    reason = f"{step.source.name} was given without a manifest, and the engine cannot run on this machine."
    return {"verdict": "inconclusive", "reasons": [reason], "cases": []}


def _document(
    step: EngineStep,
    build: EngineBuild,
    proof: PrecisionProof,
    parity: dict[str, Any],
    parent: Manifest | None,
) -> dict[str, Any]:
    notes = [f"Not built for {target}: {reason}" for target, reason in build.left_out]
    if not parity["ran"]:
        notes.insert(0, "The engine was built and not run: this machine has no GPU that it was built for.")
    calibration = parent.document.get("calibration") if parent else None
    return {
        "schema": SCHEMA,
        "format": "engine",
        "flavor": step.flavor,
        "version": build.version,
        "targets": list(build.targets),
        "source": str(step.source),
        "source_sha256": sha256_of(step.source),
        "weights": weights_json(parent.weights if parent else "file"),
        "precision": asdict(proof),
        "profiles": [
            {entry.name: {"min": entry.min, "opt": entry.opt, "max": entry.max} for entry in profile.inputs}
            for profile in build.profiles
        ],
        "parity": parity,
        "command": step.command,
        "notes": notes,
        "reused": False,
        **({} if calibration is None else {"calibration": calibration}),
    }


def _require(proof: PrecisionProof, parity: dict[str, Any], manifest: Manifest) -> None:
    engine = manifest.document["engine"]
    if proof.verdict == "fail":
        raise CheckFailed(
            f"{engine} is not the {proof.requested.upper()} engine that was asked for: {proof.reasons[0]}.",
            hint="The graph's tensor types decide; look at it, or ask for the precision that it has.",
            document=manifest.document,
        )
    if parity["verdict"] == "fail":
        raise CheckFailed(
            f"{engine} does not agree with {parity['against']}. {parity['reasons'][0]}",
            document=manifest.document,
        )
