"""The files of a report."""

from __future__ import annotations

import json
import os
from pathlib import Path

from bbx.artifact import disk_errors
from bbx.benchmarks.journal import Document
from bbx.benchmarks.reports import samples
from bbx.benchmarks.reports.history import history
from bbx.benchmarks.reports.html import page
from bbx.benchmarks.reports.junit import junit
from bbx.benchmarks.reports.markdown import markdown

FILES = ("report.json", "report.md", "report.html", "junit.xml", "history.json", samples.NAME)
"""What `write` leaves in a report's folder."""


def write(report: Document, out: Path, traces: samples.Traces | None = None) -> None:
    """Write `FILES`; each is the old one or the new one, never half of it.

    Args:
        traces: gives the raw trace of a row; by default those that lie in `out`.

    Raises:
        ArtifactError, ExhaustedError: the folder cannot be written, or the disk is full.
    """
    traces = traces or samples.traces_in(out, report)
    replace(out / "report.json", to_json(report))
    replace(out / "report.md", markdown(report))
    replace(out / "junit.xml", junit(report))
    replace(out / "history.json", to_json(history(report)))
    samples.write_pack(out / samples.NAME, report, traces)
    replace(out / "report.html", page(report, traces))


def to_json(document: object) -> str:
    """A document as the text of a file."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def replace(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        ArtifactError, ExhaustedError: the folder cannot be written, or the disk is full.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
