"""The report as one JSON document, and what every way to show it asks of a row."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bbx.benchmarks.journal import Document
from bbx.errors import CheckFailed
from bbx.types import SCHEMA

_CHECK_FAILED = f"{CheckFailed.__name__}: "
"""How the reason of a row begins whose artefact did not pass a check (see `suite.failed_row`)."""


def document(
    results: Sequence[Document],
    *,
    environment: dict[str, Any],
    left_out: Sequence[dict[str, str]],
    profile: str,
    planned: Sequence[str],
) -> Document:
    """The report of one run on one machine.

    Args:
        planned: keys of the rows that were to be measured; more than there are results when the user
            stopped it.
    """
    measured = {row["key"] for row in results}
    missing = [key for key in planned if key not in measured]
    return {
        "schema": SCHEMA,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "profile": profile,
        "complete": not missing,
        "planned": len(planned),
        "missing": missing,
        "verdicts": count_verdicts(results),
        "environment": environment,
        "results": list(results),
        "left_out": list(left_out),
    }


def count_verdicts(rows: Sequence[Document]) -> dict[str, int]:
    """How many rows have each verdict."""
    return dict(Counter(row["verdict"] for row in rows))


def environments_of(report: Document) -> list[dict[str, Any]]:
    """The machines that a report's rows were measured on, each with its `fingerprint`; one, unless merged."""
    found: list[dict[str, Any]] = report.get("environments") or [report["environment"]]
    return found


def fingerprint_in(report: Document, row: Document) -> str:
    """The fingerprint of the machine that a row was measured on."""
    found: str = row.get("environment") or report["environment"]["fingerprint"]
    return found


def machine(environment: Mapping[str, Any]) -> str:
    """A machine in a few words."""
    cpu, gpu = environment["cpu"], environment["gpu"]
    cores = len(cpu["usable"])
    accelerator = f"{gpu['name'] or 'unknown GPU'}, " if gpu else ""
    return f"{accelerator}{cpu['model'] or 'unknown CPU'}, {cores} cores"


def machines(report: Document) -> dict[str, str]:
    """Names of the machines by fingerprint, no two alike."""
    names = {each["fingerprint"]: machine(each) for each in environments_of(report)}
    shared = {name for name, count in Counter(names.values()).items() if count > 1}
    return {mark: f"{name} ({mark[:8]})" if name in shared else name for mark, name in names.items()}


def subject(row: Document) -> str:
    """The subject's name, with a word where its weights are not real ones."""
    name: str = row["subject"]
    return name + (" (random weights)" if row.get("weights") == "random" else "")


def is_valid(row: Document) -> bool:
    """Whether the row may stand in a headline table."""
    return bool(row["verdict"] == "valid")


def failed_check(row: Document) -> bool:
    """Whether the row's artefact or answers did not pass a check of parity, precision or accuracy."""
    return bool(
        row["verdict"] == "parity_failed"
        or any(reason["text"].startswith(_CHECK_FAILED) for reason in row["reasons"])
    )


def why(row: Document) -> str:
    """Every reason not to believe a row, in one text."""
    return " ".join(f"{reason['verdict']}: {reason['text']}" for reason in row["reasons"])


def what_to_do(row: Document) -> str:
    """The remedies of those reasons, each once."""
    return " ".join(dict.fromkeys(reason["remedy"] for reason in row["reasons"] if reason["remedy"]))


def distance_from_reference(row: Document) -> float | None:
    """How far the answers are from their reference: 0 for the same, None where that is not known.

    The largest relative L2 distance of an output over all cases; of detections, the largest share that has
    no match (both ways). There is none from a reference that proves nothing (`inconclusive`). Infinite
    distances, which JSON has as null, are left out: such a row's verdict says more than a point at the
    border could.
    """
    parity = row.get("parity") or {}
    cases = [] if parity.get("verdict") == "inconclusive" else parity.get("cases") or []
    found = [distance for case in cases if (distance := _distance(case)) is not None]
    return max(found, default=None)


def _distance(case: Mapping[str, Any]) -> float | None:
    if detections := case.get("detections"):
        either = max(detections["reference"], detections["candidate"])
        return 1 - detections["matched"] / either if either else 0.0
    known = [output["rel_l2"] for output in case["outputs"].values() if output["rel_l2"] is not None]
    return max(known) if len(known) == len(case["outputs"]) and known else None
