"""The child's side of `bbx bisect`: find the nodes, write the repaired graph, prove it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from bbx import artifact, process
from bbx.artifact import sha256_of
from bbx.calibration.agreement import Reference, opened, replayed, tolerance_of, typed_infer
from bbx.calibration.bisect import Blamed, Evaluation, Finding, Judge, find_nodes
from bbx.calibration.fold import constant_weights
from bbx.calibration.low_precision import LowGraph, LowNode, low_graph, precision_of
from bbx.calibration.ranges import activation_ranges
from bbx.calibration.restore import restored
from bbx.calibration.suspicion import counterparts, reference_weights, suspicions
from bbx.errors import ArtifactError, BbxError, CheckFailed
from bbx.exporter import onnx_graph, verify
from bbx.exporter.onnx_io import check_onnx, graph_specs, save_onnx
from bbx.exporter.verify import Arrays, Parity, Tolerance
from bbx.pipeline.ancestry import Ancestor, artefact_stage
from bbx.pipeline.cases import fixed_batch
from bbx.pipeline.documents import Proven, Stopwatch, settle
from bbx.pipeline.held_out import held_out_of
from bbx.pipeline.image_cases import comparison_cases
from bbx.pipeline.repair import RepairStep
from bbx.pipeline.stage_runs import Meaning, meaning_of
from bbx.types import SCHEMA, Precision, TensorSpec

_BATCH = 4
"""Photographs, where the batch is free."""


@dataclass(frozen=True, slots=True)
class _Case:
    """What is bisected."""

    step: RepairStep
    graph: LowGraph
    stage: Ancestor
    parent: Ancestor
    meaning: Meaning
    reference: Reference
    precision: Precision
    tolerance: Tolerance

    def judge(self, model: onnx.ModelProto) -> Parity:
        with opened(model) as runner:
            return self.reference.judge(typed_infer(runner), self.precision, self.tolerance)


def bisect_task(request: dict[str, Any]) -> dict[str, Any]:
    """Carry out a `RepairStep`; see `bbx.process.run_task`.

    Returns:
        The document of `bbx bisect`, which is also the repaired graph's; `artifact` is null when nothing was
        to be repaired.

    Raises:
        CheckFailed: it is not the precision: with every node in FP32 the graphs differ still.
        ArtifactError: a file is no ONNX graph, computes in FP32 throughout, or has other inputs or outputs.
        BbxError: the reference proves nothing, or as the parts.
    """
    step, path = RepairStep.from_request(request["step"]), Path(request["path"])
    stopwatch = Stopwatch()
    with process.collecting_warnings() as warnings:
        reference = _loaded(step.reference)
        case = _prepare(step, reference)
        stopwatch.lap("build")
        finding = _search(case, reference)
        stopwatch.lap("bisect")
        facts = _facts(case, finding)
        if finding.verdict != "found":
            document = _answer(case, finding, facts) | {"seconds": stopwatch.seconds(), "warnings": warnings}
            if finding.verdict == "not_the_precision":
                raise _not_the_precision(case, finding, document)
            return document
        return _written(case, finding, path, stopwatch=stopwatch, warnings=warnings, facts=facts)


def _written(
    case: _Case,
    finding: Finding,
    path: Path,
    *,
    stopwatch: Stopwatch,
    warnings: list[str],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write the repaired graph and prove what was written; gives its document."""
    nodes = [each.node.index for each in finding.nodes]
    with artifact.staged(path) as staging:
        staged = staging / path.name
        save_onnx(restored(case.graph, nodes, finding.weights), staged)
        check_onnx(staged)
        process.progress("verify", detail="the repaired graph")
        repaired = onnx.load(str(staged))
        parity = case.judge(repaired)
        stopwatch.lap("verify")
        proven = _proven(case, repaired, parity, stopwatch=stopwatch, warnings=warnings, facts=facts)
        return settle(staging, path, proven).document


def _loaded(path: Path) -> onnx.ModelProto:
    if path.suffix != ".onnx":
        raise ArtifactError(
            f"{path} is no ONNX graph, and bbx bisect changes the precision of a graph's nodes.",
            hint="Name the .onnx that it was made from.",
        )
    artifact.check_external_data(path)
    return onnx.load(str(path))


def _prepare(step: RepairStep, reference: onnx.ModelProto) -> _Case:
    source = _loaded(step.source)
    graph = low_graph(source, step.source.name)
    _require_same_interface(step, source, reference)
    stage, parent = artefact_stage(step.source), artefact_stage(step.reference)
    meaning = meaning_of([parent, stage])
    precision = precision_of(source)
    inputs, _ = graph_specs(reference)
    batch = fixed_batch(inputs) or fixed_batch(graph_specs(source)[0])
    taken = tuple(TensorSpec(each.name, each.dtype, (batch, *each.shape[1:])) for each in inputs)
    held_out = [] if step.images else held_out_of(step.source, stage.manifest, taken)
    cases = held_out or comparison_cases(
        taken,
        meaning.preprocess,
        (batch or _BATCH,),
        images=step.images,
        task=meaning.task,
        noise=precision in ("fp16", "bf16"),
    )
    process.progress("reference", detail=step.reference.name)
    with opened(reference) as runner:
        outputs = verify.reference_outputs(cases, typed_infer(runner))
    right = Reference(tuple(cases), tuple(outputs), step.reference.name, meaning.postprocess)
    tolerance = tolerance_of(precision, meaning.postprocess, step.tolerance)
    itself = right.judge(replayed(outputs), precision, tolerance)
    if itself.verdict != "pass":
        raise BbxError(itself.reasons[0], hint="Compare trained networks, or name images with --images.")
    return _Case(step, graph, stage, parent, meaning, right, precision, tolerance)


def _require_same_interface(step: RepairStep, source: onnx.ModelProto, reference: onnx.ModelProto) -> None:
    ours, theirs = graph_specs(source), graph_specs(reference)
    for what, mine, others in zip(("inputs", "outputs"), ours, theirs, strict=True):
        here, there = ({spec.name: len(spec.shape) for spec in specs} for specs in (mine, others))
        if here != there:
            raise ArtifactError(
                f"{step.source.name} has the {what} {_named(mine)}, "
                f"and {step.reference.name} {_named(others)}.",
                hint="They are not the same network; name the right one with --against.",
            )


def _named(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} of rank {len(spec.shape)}" for spec in specs)


def _search(case: _Case, reference: onnx.ModelProto) -> Finding:
    process.progress("scan", detail="ranges of the reference")
    # As it was before it was quantised: weights that it makes from constants are constants there.
    prepared = constant_weights(onnx_graph.prepared(reference, opset=onnx_graph.opset_of(reference)))
    matches = counterparts(case.graph, prepared)
    weights = reference_weights(case.graph, matches, prepared)
    ranges = activation_ranges(case.step.reference, _rows(case))
    doubts = suspicions(case.graph, matches, weights, ranges)
    most = case.step.evaluations
    return find_nodes(case.graph, _reporting(case.judge), weights, doubts, most=most)


def _rows(case: _Case) -> list[Arrays]:
    """The feeds, image by image where the batch is free: a scan may hold all activations."""
    if fixed_batch(graph_specs(case.graph.model)[0]) is not None:
        return [each.feeds for each in case.reference.cases]
    return [
        {name: feed[row : row + 1] for name, feed in each.feeds.items()}
        for each in case.reference.cases
        for row in range(each.batch)
    ]


def _reporting(judge: Judge) -> Judge:
    count = 0

    def judged(model: onnx.ModelProto) -> Parity:
        nonlocal count
        count += 1
        process.progress("bisect", detail=f"evaluation {count}")
        return judge(model)

    return judged


def _facts(case: _Case, finding: Finding) -> dict[str, Any]:
    """What `bbx bisect` says beyond what an export says."""
    parent = case.stage.manifest.document if case.stage.manifest else {}
    put_back = [
        {"name": each.node.name, "op_type": each.node.op_type, "reason": "parity needs it in FP32"}
        for each in finding.nodes
    ]
    return {
        "verdict": finding.verdict,
        "subject": str(case.step.source),
        "subject_sha256": sha256_of(case.step.source),
        "against": str(case.step.reference),
        "evaluations": finding.evaluations,
        "minimal": finding.minimal,
        "low_nodes": len(case.graph.low),
        "low_precisions": dict(Counter(each for low in case.graph.low for each in low.precisions)),
        "control": {
            "as_it_is": _json_distance(finding.as_it_is),
            "all_in_fp32": _json_distance(finding.all_back),
        },
        "nodes": [_node_json(case.graph, each, finding) for each in finding.nodes],
        "kept": [*parent.get("kept", ()), *put_back],
        **({"calibration": parent["calibration"]} if "calibration" in parent else {}),
    }


def _json_distance(found: Evaluation | None) -> float | None:
    return None if found is None or not math.isfinite(found.distance) else found.distance


def _node_json(graph: LowGraph, blamed: Blamed, finding: Finding) -> dict[str, Any]:
    node: LowNode = blamed.node
    without = blamed.without
    return {
        "name": node.name,
        "op_type": node.op_type,
        "precisions": list(node.precisions),
        "distance_with": _json_distance(finding.repaired),
        "distance_without": None if without is None or not math.isfinite(without) else without,
        "needed": without is not None,
        "from_reference": [
            graph.nodes[node.index].input[position]
            for (index, position) in finding.weights
            if index == node.index
        ],
    }


def _answer(case: _Case, finding: Finding, facts: dict[str, Any]) -> dict[str, Any]:
    """The document where no graph is written."""
    shown = finding.all_back or finding.as_it_is
    return {
        "schema": SCHEMA,
        "artifact": None,
        "precision": case.precision,
        "parity": shown.parity.to_json(),
        "command": case.step.command,
        **facts,
    }


def _not_the_precision(case: _Case, finding: Finding, document: dict[str, Any]) -> CheckFailed:
    assert finding.all_back is not None  # it is how this verdict comes about
    return CheckFailed(
        f"It is not the precision: with every node in FP32, {case.step.source.name} does not agree with "
        f"{case.step.reference.name} either. {finding.all_back.parity.reasons[0]}",
        hint="The graphs differ in something else: other weights, or another network.",
        document=document,
    )


def _proven(
    case: _Case,
    repaired: onnx.ModelProto,
    parity: Parity,
    *,
    stopwatch: Stopwatch,
    warnings: list[str],
    facts: dict[str, Any],
) -> Proven:
    inputs, outputs = graph_specs(repaired)
    manifest = case.stage.manifest or case.parent.manifest
    return Proven(
        step=case.step,
        fingerprint=case.step.fingerprint(),
        model=manifest.model if manifest else str(case.step.source),
        weights=manifest.weights if manifest else "file",
        inputs=inputs,
        outputs=outputs,
        preprocess=case.meaning.preprocess,
        postprocess=case.meaning.postprocess,
        parity=parity,
        stopwatch=stopwatch,
        warnings=warnings,
        precision=precision_of(repaired),
        # Its weights come from both graphs, and it is judged by this one.
        parent_sha256=sha256_of(case.step.reference),
        facts=facts,
    )
