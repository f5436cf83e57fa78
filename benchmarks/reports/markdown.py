"""The report as a page of Markdown that fits a pull request.

Only rows with the verdict `valid` stand in the headline table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bbx.benchmarks.conditions import described
from bbx.benchmarks.journal import Document
from bbx.benchmarks.reports.accuracies import accuracy_cells, accuracy_columns
from bbx.benchmarks.reports.cautions import cautions
from bbx.benchmarks.reports.document import (
    environments_of,
    fingerprint_in,
    is_valid,
    machine,
    machines,
    subject,
    what_to_do,
    why,
)
from bbx.benchmarks.reports.facts import environment_lines
from bbx.benchmarks.reports.threads import Tuned, tuned
from bbx.benchmarks.units import mebibytes, milliseconds, significant

LONGEST = 65_000
"""Characters. GitHub takes 65,536 in a comment, and 1 MiB in a job summary."""

_LONGEST_CELL = 600

_IDENTITY = ("model", "runtime", "precision", "batch")
_PLAIN = "single"

_HOW_TO_READ = """\
## How to read this

- Every number is the time of one inference, copies to and from the runtime left out, one at a time; where a
  row's **conditions** are others, they say so, and of `offline` and `server` images/s is the result.
  **median** is the middle run, **interval** its 95 % block-bootstrap confidence interval, **p90** and **p99**
  the runs that 10 % and 1 % exceed (– where there were too few runs to say).
- Two rows whose intervals overlap are not known to differ.
- **images/s** counts images, so it includes the batch. **memory** is the peak of the row's own process, or of
  the GPU where it ran on one.
- **parity** says whether the answers are the reference's; `inconclusive` means that the reference itself is
  no evidence (constant, for example), `–` that there is none.
- A row that is not `valid` stands apart with its reason. `report.html` shows every sample of each row and the
  command that measures it again; the raw traces are in `samples.npz`.
"""


@dataclass(frozen=True, slots=True)
class _Section:
    """A title, perhaps, and a table that may be cut."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self, room: int) -> str:
        """The section in at most about `room` characters; a line says when rows are missing."""
        title = f"## {self.title}\n\n" if self.title else ""
        taken = title + _line(self.head) + _line(["---"] * len(self.head))
        left = room - len(taken)
        for done, row in enumerate(self.rows):
            line = _line(row)
            left -= len(line)
            if left < 0:
                return f"{taken}\n**{len(self.rows) - done} more rows do not fit here:** see `report.html`.\n"
            taken += line
        return taken


def markdown(report: Document) -> str:
    """The report as Markdown, at most `LONGEST` characters: where it would be longer, tables are cut.

    What was doubted or left out gets a quarter of the room each at most; the headline table gets the rest.
    """
    valid = [row for row in report["results"] if is_valid(row)]
    head = _head(report, len(valid))
    tail = _environments(report) + "\n" + _HOW_TO_READ
    room = LONGEST - len(head) - len(tail) - 500  # the lines that say what was cut
    aside = "".join("\n" + section.text(room // 4) for section in _asides(report))
    if valid:
        headline = _headline(report, valid).text(room - len(aside))
    else:
        headline = "No row is valid, so there is no headline table.\n"
    return f"{head}\n{headline}{aside}\n{tail}"


def _head(report: Document, valid: int) -> str:
    rows = len(report["results"])
    first = f"{valid} of {rows} rows are valid. Profile `{report['profile']}`, {report['created'][:10]}.\n"
    said = "".join(
        f"- **{each.severity}** {_cell(f'{each.text} {each.remedy}')}\n" for each in cautions(report)
    )
    return f"# Benchmark\n\n{first}" + (f"\n{said}" if said else "")


def _headline(report: Document, rows: Sequence[Document]) -> _Section:
    head, identity = _identity(report)
    metrics = accuracy_columns(rows)
    head = [*head, "median", "interval", "p90", "p99", "images/s", "memory", "parity", *metrics]
    names = machines(report)
    made = [[*identity(row), *_cells(row), *accuracy_cells(row, metrics)] for row in rows]
    if len(names) == 1:
        return _Section("", head, made)
    cells = [[*each, names[fingerprint_in(report, row)]] for each, row in zip(made, rows, strict=True)]
    return _Section("", [*head, "machine"], cells)


def _identity(report: Document) -> tuple[list[str], Callable[[Document], list[str]]]:
    """What tells rows apart: titles, and the cells of a row. Conditions are named where there are several."""
    several = any(described(row) != _PLAIN for row in report["results"])

    def cells(row: Document) -> list[str]:
        found = [subject(row), row["runtime"], row["precision"], str(row["batch"])]
        return [*found, described(row)] if several else found

    return [*_IDENTITY, "conditions"] if several else [*_IDENTITY], cells


def _cells(row: Document) -> list[str]:
    latency = row["latency_ns"]
    low, high = latency["ci95"]
    return [
        milliseconds(latency["median"]),
        f"{significant(low / 1e6)} – {significant(high / 1e6)}",
        *("–" if latency[name] is None else milliseconds(latency[name]) for name in ("p90", "p99")),
        significant(row["throughput_per_s"]),
        "–" if row["peak_bytes"] is None else mebibytes(row["peak_bytes"]),
        row["parity"]["verdict"] if row["parity"] else "–",
    ]


def _asides(report: Document) -> list[_Section]:
    """What does not stand in the headline table."""
    identity, cells = _identity(report)
    doubted = [[*cells(row), *_doubt(row)] for row in report["results"] if not is_valid(row)]
    left_out = [[each["what"], each["reason"], each["include"]] for each in report["left_out"]]
    head = [*identity, "median", "verdict", "reason", "what to do"]
    swept = [
        [*cells(each.default)[:4], *_times(each), f"{each.gain:.2f}"] for each in tuned(report["results"])
    ]
    sections = [
        _Section("Not valid", head, doubted),
        _Section("Threads", [*_IDENTITY, "default", "best", "threads", "times as fast"], swept),
        _Section("Left out", ["what", "why", "to include it"], left_out),
    ]
    return [section for section in sections if section.rows]


def _doubt(row: Document) -> list[str]:
    latency = row["latency_ns"]
    median = milliseconds(latency["median"]) if latency else "–"
    return [median, row["verdict"], why(row), what_to_do(row)]


def _times(found: Tuned) -> list[str]:
    best = found.best
    medians = [milliseconds(row["latency_ns"]["median"]) for row in (found.default, best)]
    return [*medians, str(best.get("threads_asked") or "default")]


def _environments(report: Document) -> str:
    found = environments_of(report)
    if len(found) == 1:
        return "## Environment\n\n" + _environment(found[0])
    return "\n".join(f"## {_cell(machine(each))}\n\n{_environment(each)}" for each in found)


def _environment(facts: dict[str, Any]) -> str:
    return "".join(f"- {name}: {_cell(text)}\n" for name, text in environment_lines(facts))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_cell(text) for text in cells) + " |\n"


_MARKUP = re.compile(r"([\\|`*\[\]])")


def _cell(text: str) -> str:
    """Text on one line that is text: nothing in it is markup, and none is long."""
    words = " ".join(text.split())
    short = words if len(words) <= _LONGEST_CELL else words[:_LONGEST_CELL] + "…"
    plain = short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", plain)
