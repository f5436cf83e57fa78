"""`bbx bench`: from names to a report on disk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bbx.benchmarks import reports
from bbx.benchmarks.artefacts import Workshop
from bbx.benchmarks.crew import Crew, crew
from bbx.benchmarks.environment import describe
from bbx.benchmarks.journal import Document
from bbx.benchmarks.measure import profile_named
from bbx.benchmarks.plan import Plan, Row, Subject, choose_runtimes, plan, subject_named
from bbx.benchmarks.shard import Shard
from bbx.benchmarks.suite import OnRow, Setting, Suite, in_child, nobody
from bbx.errors import Cancelled, UnavailableError, UsageError
from bbx.models.registry import presets
from bbx.process import Event, Listener, Notice, silent
from bbx.runners.registry import availability
from bbx.types import Precision


def bench(
    subjects: Sequence[str] = (),
    *,
    everything: bool = False,
    runtimes: Sequence[str] | None = None,
    precisions: Sequence[Precision] = (),
    batches: Sequence[int] = (1,),
    profile: str = "quick",
    out: Path = Path("artifacts"),
    resume: bool = False,
    threads: int | None = None,
    cuda_graph: bool = False,
    trust: bool = False,
    budget_s: float | None = None,
    shard: tuple[int, int] | None = None,
    spec_options: dict[str, Any] | None = None,
    listener: Listener = silent,
    on_row: OnRow = nobody,
) -> Document:
    """Measure models or artefacts on the runtimes of this machine, and write the report.

    `out` gets `rows.jsonl` and `samples/` while it runs (see `journal`), then the files of the report (see
    `reports.files`), and the artefacts that had to be made.

    Args:
        subjects: presets, `torchvision:NAME`, `timm:NAME`, `package.module:factory`, or artefact files.
        everything: all presets, besides `subjects`.
        runtimes: None for all that this machine can run, with the exceptions that the document lists.
        precisions: empty for those that the device computes in itself.
        profile: `quick`, `report` or `long`; see `measure.PROFILES`.
        resume: do not measure again what is on disk and whose inputs have not changed.
        threads: intra-op threads; None for each runtime's own choice.
        cuda_graph: use CUDA graphs on the runtimes that have them.
        trust: load programs (engines, TorchScript, `.pt2`) that bbx did not make on this machine.
        budget_s: seconds to spend; what does not fit is `missing` in the report. None for all that it takes.
        shard: which part of how many to measure, such as (1, 4); see `shard.Shard`.
        spec_options: options of every model; see `bbx.models.spec.ModelSpec`.
        on_row: told of each row as it ends.

    Returns:
        The report, as in `report.json`.

    Raises:
        ModelError, UsageError, ArtifactError: a name or an option is wrong; nothing was measured.
        UnavailableError: a runtime that was asked for cannot run here.
        Cancelled: the user stopped it; the report holds the rows that were finished.
    """
    profile_named(profile)
    listener = _once_each(listener)
    environment = describe()
    chosen = _subjects(subjects, everything, spec_options or {})
    if shard is not None:
        chosen = Shard(*shard).of(chosen)
    todo = _planned(
        list(chosen.values()),
        runtimes=runtimes,
        precisions=precisions,
        batches=batches,
        gpu=environment["gpu"] is not None,
        profile=profile,
        cuda_graph=cuda_graph,
    )
    setting = Setting(out, profile, threads, resume, environment["fingerprint"], trust, budget_s)
    with crew() as builders:
        # A quick run proves what it measures; every other one all that `bbx export` does.
        workshop = Workshop(out, listener, tuple(batches) if profile == "quick" else ())
        ahead = partial(_make_ahead, workshop, builders)
        suite = Suite(chosen, setting, workshop.ready, in_child(listener), ahead, builders.size)
        return _reported(suite, todo, environment, on_row)


def _make_ahead(workshop: Workshop, builders: Crew, wanted: Sequence[tuple[Subject, Row]]) -> None:
    """Export side by side what some rows will need; a single export is left to its row."""
    steps = dict.fromkeys(step for subject, row in wanted for step in workshop.exports_for(subject, row))
    if len(steps) > 1:
        builders.work([partial(workshop.attempt, step) for step in steps])


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
    *,
    runtimes: Sequence[str] | None,
    precisions: Sequence[Precision],
    batches: Sequence[int],
    gpu: bool,
    profile: str,
    cuda_graph: bool,
) -> Plan:
    if cuda_graph and not gpu:
        raise UnavailableError("--cuda-graph needs an NVIDIA GPU, and this machine has none.")
    for batch in batches:
        if batch < 1:
            raise UsageError(f"--batch must be at least 1, and is {batch}.")
    chosen, left_out = choose_runtimes(runtimes, availability(), gpu=gpu, quick=profile == "quick")
    rows = plan(
        subjects,
        chosen,
        precisions=precisions,
        batches=batches,
        gpu=gpu,
        cuda_graph=cuda_graph,
        brief=not (runtimes or gpu) and profile == "quick",
    )
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
