"""`bbx bench`: from names to a report on disk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from bbx.benchmarks import reports
from bbx.benchmarks.accuracy import labelled
from bbx.benchmarks.artefacts import Workshop
from bbx.benchmarks.conditions import Asked, Conditions, LeftOut, conditions
from bbx.benchmarks.crew import Crew, crew
from bbx.benchmarks.environment import describe
from bbx.benchmarks.forecast import export_seconds
from bbx.benchmarks.journal import Document
from bbx.benchmarks.measure import profile_named
from bbx.benchmarks.plan import Haste, Plan, Row, Subject, choose_runtimes, lacking, plan, subject_named
from bbx.benchmarks.shard import Shard
from bbx.benchmarks.suite import OnRow, Setting, Suite, in_child, nobody
from bbx.errors import Cancelled, UsageError
from bbx.models.registry import presets
from bbx.process import Event, Listener, Notice, silent
from bbx.runners.registry import availability


def bench(
    subjects: Sequence[str] = (),
    *,
    everything: bool = False,
    runtimes: Sequence[str] | None = None,
    profile: str = "quick",
    out: Path = Path("artifacts"),
    resume: bool = False,
    trust: bool = False,
    budget_s: float | None = None,
    shard: tuple[int, int] | None = None,
    data: str | None = None,
    split: str | None = None,
    classes: str | None = None,
    spec_options: dict[str, Any] | None = None,
    listener: Listener = silent,
    on_row: OnRow = nobody,
    **asked: Unpack[Asked],
) -> Document:
    """Measure models or artefacts on the runtimes of this machine, and write the report.

    `out` gets `rows.jsonl` and `samples/` while it runs (see `journal`), then the files of the report (see
    `reports.files`), and the artefacts that had to be made.

    A runtime that is named and that this machine does not have gets its rows, too: `failed`, with the reason.

    Args:
        subjects: presets, `torchvision:NAME`, `timm:NAME`, `package.module:factory`, or artefact files.
        everything: all presets, besides `subjects`.
        runtimes: None for all that this machine can run, but for what the document lists.
        profile: `quick`, `report` or `long`; see `measure.PROFILES`.
        resume: do not measure again what is on disk and whose inputs have not changed.
        trust: load programs (engines, TorchScript, `.pt2`) that bbx did not make on this machine.
        budget_s: seconds to spend; what does not fit is `missing` in the report. None for all that it takes.
        shard: which part of how many to measure, such as (1, 4); see `shard.Shard`.
        data, split, classes: labelled images to judge rows by, as for `bbx eval`; None for times alone.
        spec_options: options of every model; see `bbx.models.spec.ModelSpec`.
        on_row: told of each row as it ends.
        asked: the conditions of the rows; see `conditions.Asked`.

    Returns:
        The report, as in `report.json`.

    Raises:
        ModelError, UsageError, ArtifactError: a name or an option is wrong; nothing was measured.
        UnavailableError: a condition that was asked for, such as CUDA graphs, cannot be had here.
        Cancelled: the user stopped it; the report holds the rows that were finished.
    """
    profile_named(profile)
    images = labelled(data, split, classes)
    environment = describe()
    gpu = environment["gpu"] is not None
    wanted = conditions(asked, gpu=gpu)
    chosen = _subjects(subjects, everything, spec_options or {})
    if shard is not None:
        chosen = Shard(*shard).of(chosen)
    quick = profile == "quick"
    haste = Haste.of(quick=quick, everything=everything, gpu=gpu, named=bool(runtimes))
    available = availability()
    names, not_chosen = choose_runtimes(runtimes, available)
    todo = _planned(list(chosen.values()), names, not_chosen, wanted, gpu=gpu, haste=haste)
    absent = lacking(names, available)
    setting = Setting(out, profile, resume, environment["fingerprint"], trust, budget_s, images)
    listener = _once_each(listener)
    if len(absent) < len(names):  # else it is all that there is to say, and said at the end
        for error in absent.values():
            listener(Notice(str(error)))
    batches = tuple(dict.fromkeys(row.batch for row in todo.rows))
    with crew() as builders:
        # A quick run proves what it measures; every other one all that `bbx export` does.
        workshop = Workshop(out, listener, batches if quick else ())
        ahead = partial(_make_ahead, workshop, builders)
        suite = Suite(chosen, setting, workshop.ready, in_child(listener), ahead, builders.size, absent)
        return _reported(suite, todo, environment, on_row)


def _make_ahead(workshop: Workshop, builders: Crew, wanted: Sequence[tuple[Subject, Row]]) -> None:
    """Export side by side what some rows will need; a single export is left to its row."""
    steps = dict.fromkeys(step for subject, row in wanted for step in workshop.exports_for(subject, row))
    if len(steps) > 1:
        # The longest first, so that no builder waits long for another's last one.
        longest_first = sorted(steps, key=lambda step: -export_seconds(step.spec.name))
        builders.work([partial(workshop.attempt, step) for step in longest_first])


def _reported(suite: Suite, todo: Plan, environment: dict[str, Any], on_row: OnRow) -> Document:
    """Measure, and write the report of what was measured even when the user stops it."""
    results: list[Document] = []

    def write() -> Document:
        finished = reports.document(
            results,
            environment=environment,
            left_out=[each.to_json() for each in todo.left_out],
            profile=suite.setting.profile,
            planned=[row.key for row in todo.rows],
        )
        reports.write(finished, suite.setting.out)
        return finished

    try:
        results.extend(suite.run(todo, on_row))
    except (Cancelled, KeyboardInterrupt):
        write()
        raise
    return write()


def _subjects(names: Sequence[str], everything: bool, spec_options: dict[str, Any]) -> dict[str, Subject]:
    """What to measure, by name, in the order it was asked for."""
    asked = [*names, *((preset.name for preset in presets()) if everything else ())]
    if not asked:
        raise UsageError(
            "Nothing to measure was named.", hint="Type `bbx bench resnet50` or `bbx bench --all`."
        )
    return {name: subject_named(name, spec_options) for name in dict.fromkeys(asked)}


def _planned(
    subjects: Sequence[Subject],
    runtimes: Sequence[str],
    left_out: Sequence[LeftOut],
    wanted: Conditions,
    *,
    gpu: bool,
    haste: Haste,
) -> Plan:
    rows = plan(subjects, runtimes, wanted, gpu=gpu, haste=haste)
    if not rows.rows:
        why = " ".join(each.reason for each in (*left_out, *rows.left_out))
        raise UsageError(f"No row can be measured. {why}", hint="`bbx doctor` lists the runtimes.")
    return Plan(rows.rows, (*left_out, *rows.left_out))


def _once_each(listener: Listener) -> Listener:
    """Pass events on, one at a time; a warning only the first time, since each row builds the model again."""
    heard: set[str] = set()
    lock = threading.Lock()

    def hear(event: Event | Notice) -> None:
        with lock:
            if isinstance(event, Notice):
                if event.text in heard:
                    return
                heard.add(event.text)
            listener(event)

    return hear
