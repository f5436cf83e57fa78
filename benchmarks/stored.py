"""Two reports compared row by row, on the samples that they kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bbx.benchmarks.conditions import RATES
from bbx.benchmarks.decide import Finding, between_processes, corrected, fired, unpaired
from bbx.benchmarks.environment import lasting
from bbx.benchmarks.journal import Document
from bbx.benchmarks.reports.document import environments_of, fingerprint_in, machine
from bbx.benchmarks.reports.load import read_report
from bbx.benchmarks.reports.samples import Traces, traces_in
from bbx.benchmarks.stats import Samples
from bbx.errors import UsageError, did_you_mean

_SAME_IN_A_ROW = ("clock", "threads", "device", "weights")
"""What must be equal in two rows of one key."""


_RESTLESS = "The two halves of base's own trace differ by more than the minimum effect."

_ENOUGH_PROCESSES = 4
"""Of a row, to be compared by processes: two in each half of the control."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A report with its samples."""

    path: Path
    report: Document
    traces: Traces

    @property
    def rows(self) -> dict[str, Document]:
        """Rows by key; of a merged report those of its newest machine."""
        mark = self.environment["fingerprint"]
        return {row["key"]: row for row in self.report["results"] if fingerprint_in(self.report, row) == mark}

    @property
    def environment(self) -> dict[str, Any]:
        """The machine that these rows were measured on."""
        environment: dict[str, Any] = self.report["environment"]
        return environment

    def facts(self) -> Document:
        """What the document says of it."""
        return {
            "report": str(self.path),
            "created": self.report["created"],
            "profile": self.report["profile"],
            "environment": self.environment["fingerprint"],
            "machine": machine(self.environment),
        }


def stored(path: Path) -> Stored:
    """The report at a path: a folder, or its `report.json`.

    Raises:
        ArtifactError: there is none, it is cut short, or of another schema.
    """
    folder = path if path.is_dir() or path.name != "report.json" else path.parent
    report = read_report(folder)
    return Stored(path, report, traces_in(folder, report))


def differing_facts(base: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Facts that two environments disagree about, by dotted name."""
    before, after = (dict(_flat("", lasting(dict(each)))) for each in (base, head))
    names = sorted(before.keys() | after.keys())
    return {
        name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    }


def _flat(prefix: str, facts: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def require_same_machine(base: Stored, head: Stored, *, despite: Collection[str]) -> list[str]:
    """Refuse reports of different environments.

    Args:
        despite: names of facts whose difference is what the comparison is about, such as `libraries.torch`;
            a name stands for all that begin with it and a dot.

    Returns:
        The differences that were let pass, in words.

    Raises:
        UsageError: names every other difference.
    """
    merged = [str(each.path) for each in (base, head) if len(environments_of(each.report)) > 1]
    if merged:
        raise UsageError(
            f"{merged[0]} holds rows of several machines.", hint="Compare the runs that it was merged from."
        )
    found = differing_facts(base.environment, head.environment)
    words = {name: f"{name} ({before} and {after})" for name, (before, after) in found.items()}
    let_pass = {
        name for name in words if any(name == each or name.startswith(f"{each}.") for each in despite)
    }
    refused = [text for name, text in words.items() if name not in let_pass]
    if refused:
        raise UsageError(
            f"{base.path} and {head.path} were not measured in the same environment: {', '.join(refused)}.",
            hint="Measure both on one machine, or type --despite NAME for what the comparison is about.",
        )
    return [words[name] for name in sorted(let_pass)]


def common_keys(base: Stored, head: Stored, keys: Collection[str]) -> list[str]:
    """The rows to compare, in the order of head.

    Args:
        keys: only these; all where there are none.

    Raises:
        UsageError: a key is in neither report or in only one of them, or they have none in common.
    """
    known = {**base.rows, **head.rows}
    for key in keys:
        if key not in known:
            raise UsageError(f"There is no row {key!r} in either report.", hint=did_you_mean(key, known))
        if key not in base.rows or key not in head.rows:
            lacking = base if key not in base.rows else head
            raise UsageError(f"There is no row {key!r} in {lacking.path}.", hint="Measure it there too.")
    common = [key for key in head.rows if key in base.rows and (not keys or key in keys)]
    if not common:
        raise UsageError(
            f"{base.path} and {head.path} have no row in common.",
            hint=f"A row of the one is {next(iter(base.rows), '-')}, of the other "
            f"{next(iter(head.rows), '-')}.",
        )
    return common


@dataclass(frozen=True, slots=True)
class Compared:
    """What the samples of two reports say.

    Attributes:
        findings: by key, after Holm's correction over all of them.
        not_compared: why there is no finding, by key.
        controls: of each key with a finding: the first half of base's trace, or of its processes, against the
            second.
    """

    findings: dict[str, Finding]
    not_compared: dict[str, str]
    controls: dict[str, Finding]


def compare_rows(base: Stored, head: Stored, keys: Iterable[str], *, effect: float) -> Compared:
    """Judge every row that both reports measured validly and in the same way."""
    findings: dict[str, Finding] = {}
    controls: dict[str, Finding] = {}
    refused: dict[str, str] = {}
    for key in keys:
        traces = _traces(base, head, key)
        if isinstance(traces, str):
            refused[key] = traces
            continue
        found, control = _judged(base.rows[key], head.rows[key], traces, effect)
        if found is None or control is None:
            refused[key] = "There are too few samples for an interval."
            continue
        controls[key] = control
        findings[key] = found.doubted(_RESTLESS) if fired(control) else found
    judged = dict(zip(findings, corrected(list(findings.values())), strict=True))
    return Compared(judged, refused, controls)


def _judged(
    base: Document, head: Document, traces: tuple[Samples, Samples], effect: float
) -> tuple[Finding | None, Finding | None]:
    """What two rows say of each other, and base of itself; by processes where both had several."""
    medians = [[each["median"] for each in row.get("processes", ())] for row in (base, head)]
    if min(map(len, medians)) >= _ENOUGH_PROCESSES:
        half = len(medians[0]) // 2
        return (
            between_processes(*medians, effect=effect),
            between_processes(medians[0][:half], medians[0][half:], effect=effect),
        )
    halves = np.array_split(traces[0], 2)
    return unpaired(*traces, effect=effect), unpaired(halves[0], halves[1], effect=effect)


def _traces(base: Stored, head: Stored, key: str) -> tuple[Samples, Samples] | str:
    """The samples of a row in both reports, or why they are not comparable."""
    before, after = base.rows[key], head.rows[key]
    for name, row in (("base", before), ("head", after)):
        if row["verdict"] != "valid":
            return f"The row of {name} is {row['verdict']}, so its number may not be believed."
    if after["scenario"] in RATES:
        return "Its result is a rate, and the samples are latencies at that rate: compare the two rates."
    for fact in _SAME_IN_A_ROW:
        if before.get(fact) != after.get(fact):
            return f"The rows differ in {fact}: {before.get(fact)} and {after.get(fact)}."
    first, second = base.traces(before), head.traces(after)
    if first is None or second is None:
        return f"The samples of {'base' if first is None else 'head'} are not there."
    return first[0], second[0]
