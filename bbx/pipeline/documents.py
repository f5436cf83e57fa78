"""From what a step found out to the JSON document, the manifest and the file in its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from bbx import artifact
from bbx.artifact import Manifest, WeightsOrigin, specs_to_json
from bbx.errors import CheckFailed
from bbx.exporter.verify import Parity, require_parity
from bbx.pipeline.ensure import commit_checked
from bbx.pipeline.steps import Step
from bbx.types import SCHEMA, Postprocess, Precision, Preprocess, TensorSpec

_WEIGHTS: TypeAdapter[WeightsOrigin] = TypeAdapter(WeightsOrigin)


class Stopwatch:
    """Seconds a phase, for the contract's `seconds`."""

    def __init__(self) -> None:
        self._begun = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """End `phase`, which began where the last one ended."""
        now = time.perf_counter()
        self._laps[phase] = now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Seconds of every phase so far, and in total."""
        total = time.perf_counter() - self._begun
        return {phase: round(value, 4) for phase, value in {**self._laps, "total": total}.items()}


@dataclass(frozen=True, slots=True)
class Proven:
    """What a step found out about the artefact that it staged.

    Attributes:
        model: the model's name, or the path of the graph that was given.
        facts: further fields of the document.
        failure: what else is not as it was asked for, in a sentence; empty when nothing is.
        hint: what to type if parity is lost.
    """

    step: Step
    fingerprint: str
    model: str
    weights: WeightsOrigin
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess | None
    postprocess: Postprocess | None
    parity: Parity
    stopwatch: Stopwatch
    warnings: list[str]
    precision: Precision = "fp32"
    parent_sha256: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    hint: str = ""


def weights_json(weights: WeightsOrigin) -> Any:
    """`"pretrained"`, `"random"`, `"file"` or `{path, sha256}`."""
    return _WEIGHTS.dump_python(weights, mode="json")


def settle(staging: Path, path: Path, proven: Proven) -> Manifest:
    """Put a staged ONNX, TorchScript or pt2 file in its place, with its manifest and document.

    Raises:
        CheckFailed: parity failed, or something else did; the file is kept under a name that says so.
    """
    passed = proven.parity.verdict != "fail" and not proven.failure
    manifest = commit_checked(staging, path, _describer(staging, proven), passed=passed)
    require_parity(proven.parity, manifest.document["artifact"], manifest.document, hint=proven.hint)
    if proven.failure:
        raise CheckFailed(proven.failure, document=manifest.document)
    return manifest


def _describer(staging: Path, proven: Proven) -> Callable[[Path], Manifest]:
    step = proven.step

    def describe(final: Path) -> Manifest:
        staged = staging / final.name
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "artifact": str(final),
            "format": step.result_format,
            "precision": proven.precision,
            "sha256": artifact.sha256_of(staged),
            "bytes": staged.stat().st_size,
            "weights": weights_json(proven.weights),
            "inputs": specs_to_json(proven.inputs),
            "outputs": specs_to_json(proven.outputs),
            "parity": proven.parity.to_json(),
            "seconds": proven.stopwatch.seconds(),
            "warnings": proven.warnings,
            "command": step.command,
            "reused": False,
        }
        return artifact.make_manifest(
            staging,
            file=final.name,
            format=step.result_format,
            precision=proven.precision,
            inputs=proven.inputs,
            outputs=proven.outputs,
            preprocess=proven.preprocess,
            postprocess=proven.postprocess,
            model=proven.model,
            weights=proven.weights,
            request=step.to_request(),
            fingerprint=proven.fingerprint,
            parent_sha256=proven.parent_sha256,
            tools=artifact.tool_versions(*step.tools),
            command=step.command,
            document=document | proven.facts,
        )

    return describe
