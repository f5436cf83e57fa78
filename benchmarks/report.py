"""From rows to the report: one JSON document for tools, one Markdown page for people.

Only rows with the verdict `valid` stand in the headline table.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bbx.artifact import disk_errors
from bbx.benchmarks.journal import Document
from bbx.benchmarks.units import mebibytes, milliseconds, significant
from bbx.types import SCHEMA

_HOW_TO_READ = """\
## How to read this

- Every number is the time of one inference, copies to and from the runtime left out, one at a time.
  **median** is the middle run, **interval** its 95 % block-bootstrap confidence interval, **p90** and **p99**
  the runs that 10 % and 1 % exceed (– where there were too few runs to say).
- Two rows whose intervals overlap are not known to differ.
- **images/s** counts images, so it includes the batch. **memory** is the peak of the row's own process, or of
  the GPU where it ran on one.
- **parity** says whether the answers are the reference's; `inconclusive` means that the reference itself is
  no evidence (constant, for example), `–` that there is none.
- A row that is not `valid` stands apart with its reason. Each row's raw trace is in `samples/`, and its
  `command` in `report.json` measures it again.
"""


def document(
    results: Sequence[Document],
    *,
    environment: dict[str, Any],
    left_out: Sequence[dict[str, str]],
    profile: str,
    planned: int,
) -> Document:
    """The report as JSON.

    Args:
        planned: rows that were to be measured; more than there are results when the user stopped it.
    """
    return {
        "schema": SCHEMA,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "profile": profile,
        "complete": len(results) == planned,
        "planned": planned,
        "verdicts": dict(Counter(row["verdict"] for row in results)),
        "environment": environment,
        "results": list(results),
        "left_out": list(left_out),
    }


def write(report: Document, out: Path) -> None:
    """Write `report.json` and `report.md`; each is the old one or the new one, never half of it.

    Raises:
        ArtifactError, ExhaustedError: the folder cannot be written, or the disk is full.
    """
    _replace(out / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    _replace(out / "report.md", markdown(report))


def _replace(path: Path, text: str) -> None:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def markdown(report: Document) -> str:
    """The report as a page that fits a pull request."""
    rows = report["results"]
    valid = [row for row in rows if row["verdict"] == "valid"]
    doubted = [row for row in rows if row["verdict"] != "valid"]
    parts = [_head(report, len(valid)), _headline(valid)]
    if doubted:
        parts.append("## Not valid\n\n" + _doubts(doubted))
    if report["left_out"]:
        parts.append("## Left out\n\n" + _left_out(report["left_out"]))
    parts += ["## Environment\n\n" + _environment(report["environment"]), _HOW_TO_READ]
    return "\n".join(parts)


def _head(report: Document, valid: int) -> str:
    rows = len(report["results"])
    stopped = "" if report["complete"] else f" Stopped after {rows} of {report['planned']} rows."
    return (
        f"# Benchmark\n\n{valid} of {rows} rows are valid. Profile `{report['profile']}`, "
        f"{report['created'][:10]}.{stopped}\n"
    )


def _headline(rows: Sequence[Document]) -> str:
    if not rows:
        return "No row is valid, so there is no headline table.\n"
    head = (
        "model",
        "runtime",
        "precision",
        "batch",
        "median",
        "interval",
        "p90",
        "p99",
        "images/s",
        "memory",
    )
    return _table((*head, "parity"), (_cells(row) for row in rows))


def _cells(row: Document) -> list[str]:
    latency = row["latency_ns"]
    low, high = latency["ci95"]
    return [
        _subject(row),
        row["runtime"],
        row["precision"],
        str(row["batch"]),
        f"**{milliseconds(latency['median'])}**",
        f"{significant(low / 1e6)} – {significant(high / 1e6)}",
        *("–" if latency[name] is None else milliseconds(latency[name]) for name in ("p90", "p99")),
        significant(row["throughput_per_s"]),
        "–" if row["peak_bytes"] is None else mebibytes(row["peak_bytes"]),
        row["parity"]["verdict"] if row["parity"] else "–",
    ]


def _subject(row: Document) -> str:
    """The subject's name, with a word where its weights are not real ones."""
    name: str = row["subject"]
    return name + (" (random weights)" if row.get("weights") == "random" else "")


def _doubts(rows: Sequence[Document]) -> str:
    head = ("model", "runtime", "precision", "batch", "median", "verdict", "reason", "what to do")
    return _table(head, (_doubt(row) for row in rows))


def _doubt(row: Document) -> list[str]:
    latency = row["latency_ns"]
    return [
        _subject(row),
        row["runtime"],
        row["precision"],
        str(row["batch"]),
        milliseconds(latency["median"]) if latency else "–",
        row["verdict"],
        " ".join(f"{reason['verdict']}: {reason['text']}" for reason in row["reasons"]),
        " ".join(dict.fromkeys(reason["remedy"] for reason in row["reasons"])),
    ]


def _left_out(left_out: Iterable[dict[str, str]]) -> str:
    head = ("what", "why", "to include it")
    return _table(head, ([each["what"], each["reason"], each["include"]] for each in left_out))


def _environment(facts: dict[str, Any]) -> str:
    cpu, gpu = facts["cpu"], facts["gpu"]
    quota = f", quota {cpu['quota']:g}" if cpu["quota"] else ""
    virtual = ", in a virtual machine" if cpu["hypervisor"] else ""
    libraries = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    lines = [
        f"CPU: {cpu['model'] or 'unknown'}, {len(cpu['usable'])} of {cpu['cores']} cores{quota}{virtual}",
        f"instructions: {', '.join(cpu['instructions']) or 'cannot be read'}",
        f"governor: {cpu['governor'] or 'cannot be read'}",
        f"GPU: {_gpu(gpu) if gpu else 'none'}",
        f"memory: {mebibytes(facts['memory_bytes']) if facts['memory_bytes'] else 'unknown'}",
        f"{facts['system']} {facts['kernel']} {facts['machine']}, Python {facts['python']}",
        f"libraries: {libraries}",
        f"could not be read: {', '.join(facts['unread']) or 'nothing'}",
        f"fingerprint: `{facts['fingerprint'][:16]}`",
    ]
    return "".join(f"- {line}\n" for line in lines)


def _gpu(gpu: dict[str, Any]) -> str:
    held_back = f", held back: {', '.join(gpu['throttled'])}" if gpu["throttled"] else ""
    return f"{gpu['name']}, driver {gpu['driver']}{held_back}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_cell(text) for text in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    """Text that cannot break a table."""
    return " ".join(text.split()).replace("|", "\\|")
