"""The document of an evaluation, its gate, and the files of its report."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbx.artifact import disk_errors
from bbx.evaluation.metrics import Tally

if TYPE_CHECKING:
    from bbx.evaluation.passes import Pass

REPORT = "evaluation.json"

_ROUNDING = 1e-9
"""By which a difference of two shares may miss what it is in decimals: 1 - 0.99 is more than 0.01."""


def plain(value: Any) -> Any:
    """A value as JSON has it: what is not a number as None, dataclasses as mappings."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def class_rows(tally: Tally[Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """What is known of each class that occurs, with its number and name."""
    return [
        {"number": number, "class": names[number], **plain(found)}
        for number, found in tally.per_class().items()
    ]


def gate_of(
    results: Sequence[Mapping[str, Any]], metric: str, max_drop: float | None
) -> dict[str, Any] | None:
    """Whether nothing is worse than the first by more than was allowed; None where nothing was asked.

    Args:
        metric: that decides.
        max_drop: of that metric, 0..1.
    """
    if max_drop is None:
        return None
    base = results[0]["metrics"][metric]
    worse = [
        f"{each['artifact']} on {each['runtime']} ({_drop(base, each['metrics'][metric]):.2%})"
        for each in results[1:]
        if not _drop(base, each["metrics"][metric]) <= max_drop + _ROUNDING
    ]
    reason = f"{metric} drops by more than {max_drop:.2%}: {', '.join(worse)}." if worse else ""
    return {"metric": metric, "max_drop": max_drop, "verdict": "fail" if worse else "pass", "reason": reason}


def _drop(base: float | None, value: float | None) -> float:
    """How much is lost; NaN, which no comparison allows, where one of them is not known."""
    return math.nan if base is None or value is None else base - value


def write_report(document: dict[str, Any], passes: Sequence[Pass], folder: Path) -> list[str]:
    """Write the document, and a confusion matrix as a table for each artefact that has one.

    Returns:
        The files that were written.

    Raises:
        ExhaustedError: the disk is full.
        ArtifactError: the folder cannot be written.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / REPORT]
        for number, (result, made) in enumerate(zip(document["results"], passes, strict=True), start=1):
            matrix = made.tally.confusion()
            if matrix is None:
                continue
            stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{Path(result['artifact']).name}.{result['runtime']}")
            files.append(folder / f"confusion-{number}.{stem}.csv")
            with files[-1].open("w", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(["class \\ answer", *made.classes])
                writer.writerows(
                    [name, *row] for name, row in zip(made.classes, matrix.tolist(), strict=True)
                )
        names = [str(file) for file in files]
        files[0].write_text(json.dumps({**document, "files": names}, indent=2, allow_nan=False) + "\n")
    return names
