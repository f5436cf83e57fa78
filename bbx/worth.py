"""Whether eight bits are worth it here: what they cost in accuracy and gain in time, both measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bbx import process
from bbx.artifact import read_manifest
from bbx.errors import ArtifactError

_MOST_LOST = 0.01
"""Drop of the task's measure, where no budget was given, from which a gain in time does not count."""


def worth(document: dict[str, Any], listener: process.Listener = process.silent) -> dict[str, Any]:
    """Compare a quantised graph with the FP32 graph that it was made from, on ONNX Runtime on this machine.

    Args:
        document: of `bbx quantize`.
        listener: hears progress.

    Returns:
        `verdict` (`yes`, `no` or `unknown`), `reason`, `runtime`, and the comparison's `ratio` (time of the
        quantised graph over that of FP32), `ci95` and `speed` (its verdict).

    Raises:
        ArtifactError: the FP32 graph is no longer where it was.
        BbxError: one of the two cannot be run.
    """
    from bbx.benchmarks.compare import compare

    head = Path(document["artifact"])
    base = _fp32_of(head)
    found = compare(base, head, listener=listener)
    pair, void = found["pairs"][0], found["void"]
    drop, budget = document["accuracy"]["drop"], document["accuracy"]["max_drop"]
    allowed = _MOST_LOST if budget is None else budget
    verdict, reason = _verdict(pair, drop, allowed, void)
    return {
        "verdict": verdict,
        "reason": reason,
        "runtime": "ort-cpu",
        "ratio": pair["ratio"],
        "ci95": pair["ci95"],
        "speed": pair["verdict"],
    }


def _fp32_of(path: Path) -> Path:
    """The FP32 graph at the start of a quantised one; between the two may be one that was not typed yet."""
    manifest = read_manifest(path)
    while manifest is not None and manifest.precision in ("int8", "fp8"):
        path = Path(str(manifest.request["source"]))
        manifest = read_manifest(path)
    if not path.is_file():
        raise ArtifactError(f"The FP32 graph {path} is no longer there.", hint="Make it again: --force")
    return path


def _verdict(pair: dict[str, Any], drop: float, allowed: float, void: str | None) -> tuple[str, str]:
    if drop > allowed:
        return "no", f"it loses {drop:.2%} of the accuracy, and {allowed:.2%} is allowed"
    if void is not None or pair["verdict"] == "ambiguous":
        return "unknown", void or "the machine was too noisy to tell its speed from FP32's"
    if pair["verdict"] == "faster":
        return "yes", f"it takes {pair['ratio']:.2f} times FP32's time and loses {drop:.2%} of the accuracy"
    return "no", f"it is not faster here: {pair['ratio']:.2f} times FP32's time"
