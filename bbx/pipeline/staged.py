"""The child's side of `bbx parity`: compare every stage of an artefact's ancestry with the first and the last
one.

A loss is pinned to the first stage that is out of its tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx

from bbx import process
from bbx.artifact import sha256_of
from bbx.calibration.agreement import Metric, Reference, excused, replayed, task_metric, tolerance_of
from bbx.errors import ArtifactError, CheckFailed
from bbx.exporter.verify import TOLERANCES, Parity
from bbx.models.spec import ModelSpec
from bbx.pipeline.ancestry import Ancestor, ancestry, artefact_stage
from bbx.pipeline.documents import Stopwatch
from bbx.pipeline.rounding_control import controlled
from bbx.pipeline.stage_runs import Meaning, Ran, Runs, meaning_of, reference_stage, run_stages
from bbx.pipeline.typed_parity import by_noise
from bbx.types import SCHEMA, ParityVerdict

_GRAVITY: dict[ParityVerdict, int] = {"pass": 0, "inconclusive": 1, "fail": 2}


@dataclass(frozen=True, slots=True)
class Compared:
    """A stage that was compared: with the first one that ran, and with the one before it."""

    stage: Ancestor
    to_first: Parity
    to_previous: Parity
    metric_to_first: Metric | None
    metric_to_previous: Metric | None

    @property
    def graver(self) -> Parity:
        """The comparison that decides; the one with the stage before where they are equally grave."""
        return max(self.to_previous, self.to_first, key=lambda parity: _GRAVITY[parity.verdict])


def parity_task(request: dict[str, Any]) -> dict[str, Any]:
    """Compare the stages; see `bbx.process.run_task`.

    Args:
        request: `artifact`, `against` (a path, or null), `spec` (of a model, or null), `images` (a path, or
            null), `batches` (sizes, or none), `trust`, `command`.

    Raises:
        CheckFailed: a stage is out of its tolerance; the message says which, where and how far.
        ArtifactError: there is nothing to compare the artefact with, or it cannot be run.
        BbxError: as the parts.
    """
    stopwatch = Stopwatch()
    images = None if request["images"] is None else Path(request["images"])
    with process.collecting_warnings() as warnings:
        stages = _stages(request)
        meaning = meaning_of(stages)
        batches = tuple(request["batches"])
        runs = run_stages(stages, meaning, images=images, batches=batches, trust=request["trust"])
        if not runs.ran or (len(runs.ran) < 2 and len(stages) < 2):
            raise _nothing_to_compare(stages)
        compared = [_compare(runs, before, this, meaning) for before, this in pairwise(runs.ran)]
    stopwatch.lap("verify")
    failed = next((each for each in compared if each.graver.verdict == "fail"), None)
    document = {
        "schema": SCHEMA,
        "artifact": request["artifact"],
        "against": runs.ran[0].stage.label,
        "verdict": _verdict(compared),
        "pinned": None if failed is None else failed.stage.stage,
        "stages": list(_stages_json(stages, runs, compared)),
        "parity": _last_parity(compared, runs),
        "seconds": stopwatch.seconds(),
        "warnings": warnings,
        "command": request["command"],
    }
    if failed is not None:
        parity = failed.graver
        raise CheckFailed(
            f"Parity is lost at stage {failed.stage.stage}: {failed.stage.label} does not agree with "
            f"{parity.against}. {parity.reasons[0]}",
            document=document,
        )
    return document


def _stages(request: dict[str, Any]) -> list[Ancestor]:
    """The stages to run, the reference first."""
    stages = ancestry(Path(request["artifact"]))
    if request["spec"] is not None:
        reference = reference_stage(ModelSpec.from_request(request["spec"]), stages)
        return stages if reference in stages else [reference, *_artefacts(stages)]
    if request["against"] is None:
        return stages
    path = Path(request["against"])
    reference = artefact_stage(path)
    digest = sha256_of(path)
    for place, stage in enumerate(stages):
        if stage.path is not None and sha256_of(stage.path) == digest:
            return stages[place:]
    return [reference, *_artefacts(stages)]


def _artefacts(stages: Sequence[Ancestor]) -> list[Ancestor]:
    return [stage for stage in stages if stage.path is not None]


def _nothing_to_compare(stages: Sequence[Ancestor]) -> ArtifactError:
    last = stages[-1]
    return ArtifactError(
        f"There is nothing to compare {last.label} with: no manifest says what it was made from."
        if last.manifest is None
        else f"There is nothing to compare {last.label} with: nothing that it was made from can be run here.",
        hint=f"Type: bbx parity {last.path} --against MODEL, or the path of its FP32 graph.",
    )


def _compare(runs: Runs, before: Ran, this: Ran, meaning: Meaning) -> Compared:
    first = runs.ran[0]
    precision = this.stage.precision
    tolerance = tolerance_of(precision, meaning.postprocess)
    # An engine is compared with its own graph, which has the same roundings.
    step = tolerance
    if this.stage.stage == "engine" and precision not in TOLERANCES:
        step = tolerance_of("fp16", meaning.postprocess)

    def judged(other: Ran, allowed: Any) -> tuple[Parity, Metric | None]:
        reference = Reference(runs.cases, other.outputs, other.stage.label, meaning.postprocess)
        parity = reference.judge(
            replayed(this.outputs), precision, allowed, random_weights=meaning.random_weights
        )
        if allowed is tolerance and precision not in TOLERANCES:
            excuse = excused(
                parity, random_weights=meaning.random_weights, noise=by_noise(this.stage.manifest)
            )
            by_control = excuse is not parity and other.stage.stage == "qdq" and this.stage.half is not None
            parity = _by_control(parity, excuse, other, this, runs) if by_control else excuse
        return parity, task_metric(reference, this.outputs, parity)

    to_first, metric_to_first = judged(first, tolerance)
    to_previous, metric_to_previous = judged(before, step)
    return Compared(this.stage, to_first, to_previous, metric_to_first, metric_to_previous)


def _by_control(parity: Parity, excuse: Parity, quantised: Ran, retyped: Ran, runs: Runs) -> Parity:
    """What 16 bits did to a Q/DQ graph is excused only as far as as much rounding carries that graph."""
    path, half = quantised.stage.path, retyped.stage.half
    assert path is not None  # of a graph
    assert half is not None
    return controlled(parity, excuse, onnx.load(str(path)), half, runs.cases)


def _verdict(compared: Sequence[Compared]) -> ParityVerdict:
    """The gravest; a chain in which nothing was compared proves nothing."""
    verdicts = [each.graver.verdict for each in compared]
    return max(verdicts, key=_GRAVITY.__getitem__, default="inconclusive")


def _last_parity(compared: Sequence[Compared], runs: Runs) -> dict[str, Any]:
    if compared:
        return compared[-1].to_first.to_json()
    reasons = [f"Nothing but {runs.ran[0].stage.label} could be run.", *runs.not_run.values()]
    return {"verdict": "inconclusive", "reasons": reasons, "cases": []}


def _stages_json(
    stages: Sequence[Ancestor], runs: Runs, compared: Sequence[Compared]
) -> Iterator[dict[str, Any]]:
    """One object a stage, whether it ran or not."""
    of_stage = {id(each.stage): each for each in compared}
    for place, stage in enumerate(stages):
        found = of_stage.get(id(stage))
        yield {
            "stage": stage.stage,
            "subject": stage.label,
            "artifact": None if stage.path is None else str(stage.path),
            "precision": stage.precision,
            "ran": place not in runs.not_run,
            "reason": runs.not_run.get(place, ""),
            "verdict": None if found is None else found.graver.verdict,
            "to_first": None if found is None else found.to_first.to_json(),
            "to_previous": None if found is None else found.to_previous.to_json(),
            "metric": None if found is None else _metric_json(found),
        }


def _metric_json(found: Compared) -> dict[str, Any] | None:
    if found.metric_to_first is None or found.metric_to_previous is None:
        return None
    shared = asdict(found.metric_to_first)
    first = shared.pop("value")
    return {**shared, "to_first": first, "to_previous": found.metric_to_previous.value}
