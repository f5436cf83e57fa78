"""The tables of the walk-through, from what its script wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "walkthrough.json"


def times() -> str:
    """How long each step took."""
    document = json.loads(RESULT.read_text())
    rows = [
        f"| {verb} | {Path(subject).name} | {seconds:.0f} s |"
        for (_, verb, subject, *_), seconds in (
            (each["command"].split(), each["seconds"]) for each in document["steps"]
        )
    ]
    return "\n".join(["| step | of | time |", "| --- | --- | ---: |", *rows]) + "\n"


def judged() -> str:
    """What `bbx eval` found."""
    document = json.loads(RESULT.read_text())
    [answer] = [each["answer"] for each in document["steps"] if each["command"].startswith("bbx eval")]
    head = ["artefact", "runner", "precision", "top-1", "difference, with its 95 % interval", "flips"]
    lines = [f"| {' | '.join(head)} |", "| --- | --- | --- | ---: | ---: | --- |"]
    for row in answer["results"]:
        cells = [
            Path(row["artifact"]).name,
            row["runtime"],
            row["precision"],
            f"{row['metrics']['top1']:.1%}",
        ]
        lines.append(f"| {' | '.join([*cells, _difference(row), _flips(row)])} |")
    return "\n".join(lines) + "\n"


def _difference(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return "–"
    found = row["difference"]["top1"]
    low, high = found["ci95"]
    return f"{found['value']:+.1%} ({low:+.1%} to {high:+.1%})"


def _flips(row: dict[str, Any]) -> str:
    flips = row["flips"]
    if flips is None:
        return "–"
    return f"{flips['right_to_wrong']} lost, {flips['wrong_to_right']} won, of {flips['of']}"
