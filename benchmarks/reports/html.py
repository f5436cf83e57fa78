"""The report as one HTML page that needs nothing else: no network, no other file.

The page's data is one JSON block, which the script in `page/` draws with DOM methods only. So a name in a
report cannot become markup, and the page's own policy (CSP, trusted types) lets no other script run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from string import Template
from typing import Any

from bbx.benchmarks.conditions import described
from bbx.benchmarks.journal import Document
from bbx.benchmarks.reports.cautions import cautions
from bbx.benchmarks.reports.document import (
    distance_from_reference,
    environments_of,
    failed_check,
    fingerprint_in,
    is_valid,
    machines,
)
from bbx.benchmarks.reports.facts import environment_lines
from bbx.benchmarks.reports.quantised import Drawn, drawn
from bbx.benchmarks.reports.samples import Traces

_SCRIPTS = ("base.js", "table.js", "strips.js", "scatter.js", "batches.js", "phases.js", "main.js")

_LONGEST_TEXT = 600

_SHOWN_AS_THEY_ARE = (
    "key",
    "subject",
    "runtime",
    "precision",
    "batch",
    "scenario",
    "verdict",
    "throughput_per_s",
    "peak_bytes",
    "command",
)
_SHOWN_WHERE_THERE = (
    "runs",
    "stopped",
    "threads",
    "threads_asked",
    "cache",
    "residence",
    "slo_ns",
    "in_flight",
    "processes",
    "search",
    "device",
    "clock",
    "load",
    "profile",
    "artefact_sha256",
    "accuracy",
    "phases_ns",
)


def page(report: Document, traces: Traces) -> str:
    """The whole page.

    Args:
        traces: gives the raw trace of a row.
    """
    style = _asset("page.css")
    script = '"use strict";\n' + "\n".join(map(_asset, _SCRIPTS))
    # In a script element only "<" could end it or begin a comment; JSON can say it otherwise.
    data = json.dumps(_data(report, traces), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    return Template(_asset("page.html")).substitute(policy=policy, style=style, script=script, data=data)


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """How a policy names the only content that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data(report: Document, traces: Traces) -> dict[str, Any]:
    names = machines(report)
    marks = list(names)
    pictures = drawn(report["results"], traces)
    return {
        "created": report["created"],
        "profile": report["profile"],
        "cautions": [each.to_json() for each in cautions(report)],
        "machines": [
            {"name": names[each["fingerprint"]], "facts": environment_lines(each)}
            for each in environments_of(report)
        ],
        "leftOut": report["left_out"],
        "decimated": sum(picture is not None and picture.is_decimated for picture in pictures),
        "rows": [
            _row(row, marks.index(fingerprint_in(report, row)), _change(report, row), picture)
            for row, picture in zip(report["results"], pictures, strict=True)
        ],
    }


def _change(report: Document, row: Document) -> dict[str, Any] | None:
    """What a comparison found of the row."""
    pairs: list[dict[str, Any]] = report.get("comparison", [])
    return next((pair for pair in pairs if pair["key"] == row["key"]), None)


def _row(row: Document, machine: int, change: dict[str, Any] | None, picture: Drawn | None) -> dict[str, Any]:
    return {
        **{name: row[name] for name in _SHOWN_AS_THEY_ARE},
        **{name: row[name] for name in _SHOWN_WHERE_THERE if row.get(name) is not None},
        "conditions": described(row),
        "machine": machine,
        "grade": "valid" if is_valid(row) else "failed" if failed_check(row) else "doubted",
        "random": row.get("weights") == "random",
        "reasons": [{name: _short(text) for name, text in reason.items()} for reason in row["reasons"]],
        "latency": row["latency_ns"],
        "parity": row["parity"]["verdict"] if row["parity"] else None,
        "distance": distance_from_reference(row),
        "change": change,
        "trace": picture and picture.to_json(),
    }


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"
