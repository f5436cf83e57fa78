"""What a reader must know before the numbers: warnings as data, each with its remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from bbx.benchmarks.journal import Document
from bbx.benchmarks.reports.document import environments_of, failed_check, is_valid

Severity = Literal["failure", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Caution:
    """One thing to know.

    Attributes:
        severity: `failure` where a check failed, `warning` where numbers are missing or doubted, `note` for
            what limits how far they carry.
        remedy: what to do about it; may be empty.
    """

    severity: Severity
    text: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """As the page takes it."""
        return asdict(self)


def cautions(report: Document) -> list[Caution]:
    """Everything to know, gravest first."""
    return [*_failures(report), *_warnings(report), *_notes(report)]


def _failures(report: Document) -> Iterator[Caution]:
    broken = [row["key"] for row in report["results"] if failed_check(row)]
    if broken:
        yield Caution(
            "failure",
            f"{_rows(len(broken))} did not pass a check of parity or precision: {_some(broken)}.",
            "Do not ship these; their reasons are in the table.",
        )
    slower = [pair for pair in report.get("comparison", []) if pair["verdict"] == "slower"]
    if slower:
        said = [f"{pair['key']} ({pair['ratio'] - 1:+.1%})" for pair in slower]
        yield Caution("failure", f"{_rows(len(slower))} became slower: {_some(said)}.")


def _warnings(report: Document) -> Iterator[Caution]:
    rows = report["results"]
    if not report["complete"]:
        yield Caution(
            "warning",
            f"Stopped after {len(rows)} of {report['planned']} rows.",
            "The same command with --resume measures the others.",
        )
    if not any(is_valid(row) for row in rows):
        yield Caution("warning", "No row is valid, so nothing here may be quoted.")
    doubted = Counter(row["verdict"] for row in rows if not is_valid(row) and not failed_check(row))
    if doubted:
        said = ", ".join(f"{count} {verdict}" for verdict, count in doubted.most_common())
        yield Caution(
            "warning",
            f"{_rows(doubted.total())} of {len(rows)} may not be quoted: {said}.",
            "Each says why, and what to do about it.",
        )


def _notes(report: Document) -> Iterator[Caution]:
    environments = environments_of(report)
    if len(environments) > 1:
        yield Caution(
            "note",
            f"The rows come from {len(environments)} different environments.",
            "Compare rows of one environment only.",
        )
    random = {row["subject"] for row in report["results"] if row.get("weights") == "random"}
    if random:
        yield Caution(
            "note",
            f"{len(random)} model{'s have' if len(random) > 1 else ' has'} random weights: "
            "speed and shapes are real, answers are not.",
        )
    unread = sorted({name for each in environments for name in each["unread"]})
    if unread:
        yield Caution("note", f"Of the environment this could not be read: {', '.join(unread)}.")
    for text in report.get("notes", []):
        yield Caution("note", text)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _some(names: list[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
