"""Reading a report that bbx wrote, here or on another machine, and perhaps not to its end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bbx.benchmarks.conditions import HOME
from bbx.benchmarks.journal import Document
from bbx.errors import ArtifactError
from bbx.types import SCHEMA


class _Part(BaseModel):
    """What is needed of a document; other fields are welcome, and kept."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Reason(_Part):
    verdict: str
    text: str
    remedy: str


class _Latency(_Part):
    median: float
    ci95: list[int] | None
    p90: int | None
    p99: int | None
    min: int
    mean: float


class _Phase(_Part):
    median: float
    ci95: list[int] | None
    samples: int


class _Row(_Part):
    key: str
    subject: str
    runtime: str
    precision: str
    batch: int
    scenario: str
    cache: str
    residence: str
    slo_ns: int | None
    threads_asked: int | None
    phases_ns: dict[str, _Phase] | None = None
    verdict: str
    reasons: list[_Reason]
    latency_ns: _Latency | None
    throughput_per_s: float | None
    samples: str | None
    peak_bytes: int | None
    parity: dict[str, Any] | None
    command: str


class _Cpu(_Part):
    model: str | None
    cores: int | None
    usable: list[int]
    quota: float | None
    instructions: list[str]
    governor: str | None
    hypervisor: bool | None


class _Gpu(_Part):
    name: str | None
    driver: str | None
    throttled: list[str]


class _Environment(_Part):
    cpu: _Cpu
    gpu: _Gpu | None
    kernel: str | None
    system: str | None
    machine: str | None
    python: str
    memory_bytes: int | None
    libraries: dict[str, str]
    variables: dict[str, str]
    unread: list[str]
    fingerprint: str


class _LeftOut(_Part):
    what: str
    reason: str
    include: str


class _Pair(_Part):
    key: str
    ratio: float
    ci95: list[float]
    verdict: str


class _Report(_Part):
    created: str
    profile: str
    complete: bool
    planned: int
    missing: list[str] = []
    environment: _Environment
    environments: list[_Environment] = []
    comparison: list[_Pair] = []
    results: list[_Row]
    left_out: list[_LeftOut]


class _Comparison(_Part):
    pairs: list[_Pair]


def read_report(folder: Path) -> Document:
    """The report in a folder.

    Raises:
        ArtifactError: there is none; it is cut short, of another schema, or no report of `bbx bench`.
    """
    file = folder / "report.json"
    document = read_document(file, _hint(folder))
    _complete(document)
    _validate(file, _Report, document, "report of `bbx bench`")
    return document


def _complete(document: Document) -> None:
    """Add what reports did not say before rows were measured under more conditions than one.

    A row was one request at a time with hot caches, from where the runtime wants its input; how many threads
    were asked for stands only in its command.
    """
    rows = document.get("results")
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict):
            row.setdefault("scenario", "single")
            row.setdefault("cache", "hot")
            row.setdefault("residence", HOME["cuda" if row.get("device") == "cuda" else "cpu"])
            row.setdefault("slo_ns", None)
            row.setdefault("threads_asked", None)


def _hint(folder: Path) -> str:
    if not folder.exists():
        return "Name the folder that `bbx bench --out` wrote."
    if (folder / "rows.jsonl").is_file():
        return (
            f"It holds rows of a run that was killed: type the same `bbx bench` with --resume --out {folder}."
        )
    return "Name a folder that `bbx bench` wrote."


def read_document(file: Path, hint: str = "") -> Document:
    """A JSON document of this schema.

    Args:
        hint: what to type where there is no such file.

    Raises:
        ArtifactError: there is no such file; it is cut short, or of another schema.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ArtifactError(f"There is no file {file}.", hint=hint) from None
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ArtifactError(
            f"{file} is cut short or is no JSON{where}.", hint="Copy or make it again."
        ) from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise ArtifactError(_other_schema(file, schema), hint=_remedy(schema))
    found: Document = document
    return found


def _other_schema(file: Path, schema: object) -> str:
    if not isinstance(schema, str):
        return f"{file} says of no schema, so it is no document of bbx."
    return f"{file} has the schema {schema!r}, and this bbx reads {SCHEMA!r}."


def _remedy(schema: object) -> str:
    newer = isinstance(schema, str) and re.fullmatch(r"bbx/(\d+)", schema)
    if newer and int(newer[1]) > int(SCHEMA.partition("/")[2]):
        return "A newer bbx wrote it: pip install --upgrade bbx"
    return "Name a report.json of `bbx bench`."


def read_comparison(file: Path) -> list[dict[str, Any]]:
    """The pairs of a document of `bbx compare --json`.

    Raises:
        ArtifactError: there is no such file, or it is something else.
    """
    document = read_document(file, "Write it with: bbx compare BASE HEAD --json > FILE")
    _validate(file, _Comparison, document, "comparison of `bbx compare`")
    pairs: list[dict[str, Any]] = document["pairs"]
    return pairs


def _validate(file: Path, model: type[_Part], document: Document, kind: str) -> None:
    """Refuse what the writers would stumble over."""
    try:
        model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"{file} is no {kind}: {where}: {first['msg']}.", hint="Was it cut, or edited by hand?"
        ) from error
