"""Running the rows of a plan: one child process each, each on disk as soon as it is done.

A row that fails is a row with its reason; only the user, a full disk or an unwritable folder end the run.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bbx.artifact import fingerprint_of
from bbx.benchmarks.artefacts import Ready
from bbx.benchmarks.crew import ROW_TASK
from bbx.benchmarks.forecast import Forecast, affordable, export_seconds
from bbx.benchmarks.journal import Document, Journal
from bbx.benchmarks.measure import PROFILES, profile_named
from bbx.benchmarks.plan import Plan, Row, Subject
from bbx.benchmarks.pooling import in_processes, processes_of
from bbx.benchmarks.verdicts import Reason
from bbx.errors import BbxError, Cancelled, CheckFailed
from bbx.pipeline import ExportStep
from bbx.process import Listener, run_task, silent

OnRow = Callable[[int, int, float | None, Document], None]
"""Told of each row: how many are done, of how many, seconds left (None: not known), and the row."""

Prepare = Callable[[Subject, Row], Ready]
Execute = Callable[[dict[str, Any]], Document]
Ahead = Callable[[Sequence[tuple[Subject, Row]]], None]

TOGETHER = 12
"""Subjects whose artefacts are made side by side before the first of their rows is measured."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all rows of a run have in common.

    Attributes:
        out: folder for `rows.jsonl` and `samples/`.
        profile: name of the profile (`measure.PROFILES`).
        resume: rows that are on disk and whose inputs have not changed are not measured again.
        environment: fingerprint of the machine and its libraries.
        trust: programs that bbx did not make here are loaded; the user answers for them.
        budget_s: no row is begun after so many seconds, and rows that do not fit are not tried; None: no end.
        data: labelled images, as `accuracy.labelled` gives them; None for latency alone.
    """

    out: Path
    profile: str
    resume: bool
    environment: str
    trust: bool = False
    budget_s: float | None = None
    data: Mapping[str, str | None] | None = None


def nothing_ahead(wanted: Sequence[tuple[Subject, Row]]) -> None:
    """Leaves it to `prepare` to make what a row needs."""


def nobody(done: int, total: int, eta_s: float | None, row: Document) -> None:
    """Is told of each row and does nothing."""


@dataclass(frozen=True, slots=True)
class Suite:
    """Measures rows.

    Attributes:
        subjects: by name.
        prepare: makes or reuses what a row needs; see `artefacts.Workshop.ready`.
        execute: measures a row, given its request; see `in_child`.
        ahead: makes what several rows will need, side by side; see `bench`.
        builders: how many artefacts it makes at once.
        absent: runtimes that this machine does not have, and why; their rows fail with that, at no cost.
    """

    subjects: Mapping[str, Subject]
    setting: Setting
    prepare: Prepare
    execute: Execute
    ahead: Ahead = nothing_ahead
    builders: int = 1
    absent: Mapping[str, BbxError] = field(default_factory=dict)

    def run(self, plan: Plan, on_row: OnRow = nobody) -> Iterator[Document]:
        """Measure every row of the plan, in its order.

        Yields:
            One document a row as it ends; by then it stands in `rows.jsonl`.

        Raises:
            Cancelled: the user stopped it; finished rows are on disk.
            ArtifactError, ExhaustedError: `setting.out` cannot be written.
        """
        journal = Journal(self.setting.out, resume=self.setting.resume)
        before = {key: row for key, row in journal.read().items() if self._may_stand(row)}
        rows = self._within_budget(plan.rows, before)
        forecast = self._forecast([row for row in rows if row.runtime not in self.absent])
        end = None if self.setting.budget_s is None else time.monotonic() + self.setting.budget_s
        done = 0
        # With an end in sight few are made at once, so that what was made is also measured.
        together = TOGETHER if end is None else self.builders
        for planned in _groups(rows, together):
            group = [row for row in planned if self._costs_nothing(row, before) or not _over(end)]
            possible = [row for row in group if row.runtime not in self.absent]
            subjects = dict.fromkeys(row.subject for row in possible)
            start = time.monotonic()
            if not _over(end):
                self.ahead([(self.subjects[row.subject], row) for row in possible])
            forecast.exports_done(subjects, time.monotonic() - start)
            for row in group:
                start = time.monotonic()
                found = self._result(row, before.get(row.key), late=_over(end))
                if found is None:
                    continue
                result, fresh = found
                if fresh:
                    journal.append(result)
                if row.runtime not in self.absent:
                    forecast.row_done(row, time.monotonic() - start if fresh else None)
                done += 1
                on_row(done, len(rows), forecast.left_s(), result)
                yield result

    def _may_stand(self, row: Document) -> bool:
        """Whether a row on disk may do as it is, if its inputs turn out to be the same."""
        return bool(row["latency_ns"]) and row.get("profile") == self.setting.profile

    def _within_budget(self, rows: Sequence[Row], before: Mapping[str, Document]) -> Sequence[Row]:
        """The rows to try."""
        if self.setting.budget_s is None:
            return rows
        free = {row.key for row in rows if self._costs_nothing(row, before)}
        todo = [row for row in rows if row.key not in free]
        profile = PROFILES[self.setting.profile]
        chosen = affordable(todo, profile, self.setting.budget_s, builders=self.builders)
        return [row for row in rows if row.key in chosen | free]

    def _costs_nothing(self, row: Row, before: Mapping[str, Document]) -> bool:
        """Whether a row may be on disk already, or cannot be measured here at all."""
        return row.key in before or row.runtime in self.absent

    def _forecast(self, rows: Sequence[Row]) -> Forecast:
        named = {row.subject for row in rows if self.subjects[row.subject].spec is not None}
        exports = {subject: export_seconds(subject) for subject in sorted(named)}
        return Forecast(list(rows), exports, self.setting.profile, self.builders)

    def _result(self, row: Row, before: Document | None, *, late: bool) -> tuple[Document, bool] | None:
        """A row's document, and whether it was measured just now; None where there is no time for that."""
        subject = self.subjects[row.subject]
        command = row.command(profile=self.setting.profile, spec=subject.spec)
        if error := self.absent.get(row.runtime):
            return failed_row(row, command, error), True
        if late and before is None:
            return None
        try:
            ready = self.prepare(subject, row)
            request = _request(row, subject, self.setting, ready) | {"command": command}
            inputs = _inputs(request, subject, ready, self.setting)
            if before is not None and inputs and before.get("inputs") == inputs:
                return before, False
            if late:
                return None
            return self.execute(request) | {"inputs": inputs}, True
        except Cancelled:
            raise
        except BbxError as error:
            return failed_row(row, command, error), True


def in_child(listener: Listener = silent) -> Execute:
    """Measures each row in a process of its own, or in several; the listener hears of their progress."""

    def execute(request: dict[str, Any]) -> Document:
        count = processes_of(request["scenario"], profile_named(request["profile"]))
        if count == 1:
            return run_task(ROW_TASK, request, listener=listener)
        return in_processes(lambda each: run_task(ROW_TASK, each, listener=listener), request, count)

    return execute


def _over(end: float | None) -> bool:
    """Whether a moment of the monotonic clock is past."""
    return end is not None and time.monotonic() > end


def _groups(rows: Sequence[Row], together: int) -> Iterator[list[Row]]:
    """The rows of some subjects after those of others, each group and all of them in order."""
    subjects = list(dict.fromkeys(row.subject for row in rows))
    number = {subject: index // together for index, subject in enumerate(subjects)}
    for _, group in itertools.groupby(rows, key=lambda row: number[row.subject]):
        yield list(group)


def _request(row: Row, subject: Subject, setting: Setting, ready: Ready) -> dict[str, Any]:
    """What `row.row_task` is given; plain JSON."""
    return {
        **row.identity(),
        "threads": row.threads,
        "trust": setting.trust,
        "spec": subject.spec.to_request() if subject.spec else None,
        "artefact": str(ready.artefact.path) if ready.artefact else None,
        "artefact_sha256": ready.artefact.sha256 if ready.artefact else None,
        "reference": str(ready.reference.path) if ready.reference else None,
        "profile": setting.profile,
        "out": str(setting.out.absolute()),
        "samples": f"samples/{row.stem}.npz",
        # Only where there are some: a report without them is resumed as before.
        **({"data": dict(setting.data)} if setting.data else {}),
    }


_PLACES = ("artefact", "reference", "out", "samples", "command", "trust")


def _inputs(request: dict[str, Any], subject: Subject, ready: Ready, setting: Setting) -> str | None:
    """Hash of everything that a row's number depends on; where files lie is not among it.

    Returns:
        None where that cannot be told: a factory is code of the user's own.
    """
    facts = {name: value for name, value in request.items() if name not in _PLACES}
    facts["reference_sha256"] = ready.reference.sha256 if ready.reference else None
    if subject.spec is not None:
        step = ExportStep("", subject.spec)
        if not step.reusable:
            return None
        facts["weights"] = step.dependencies()
    return fingerprint_of(facts | {"environment": setting.environment})


def failed_row(row: Row, command: str, error: BbxError) -> Document:
    """The document of a row that has no measurement."""
    parity = error.document.get("parity") if isinstance(error, CheckFailed) and error.document else None
    not_right = parity is not None and parity["verdict"] == "fail"
    reason = Reason(
        "parity_failed" if not_right else "failed", f"{type(error).__name__}: {error.message}", error.hint
    )
    return {
        **row.identity(),
        "verdict": reason.verdict,
        "reasons": [reason.to_json()],
        "latency_ns": None,
        "throughput_per_s": None,
        "samples": None,
        "peak_bytes": None,
        "parity": parity,
        "exit_code": error.exit_code,
        "command": command,
    }
