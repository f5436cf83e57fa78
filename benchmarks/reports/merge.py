"""Several runs in one report: shards of one machine, several machines, or one run drawn anew."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bbx.benchmarks.journal import Document, write_samples
from bbx.benchmarks.reports.document import count_verdicts, environments_of, fingerprint_in
from bbx.benchmarks.reports.files import replace, write
from bbx.benchmarks.reports.load import read_comparison, read_report
from bbx.benchmarks.reports.samples import Traces, traces_in
from bbx.errors import UsageError


@dataclass(frozen=True, slots=True)
class _Run:
    """A folder that `bbx bench` or `bbx report` wrote."""

    folder: Path
    report: Document
    traces: Traces

    @property
    def age(self) -> tuple[str, str]:
        """Sorts runs from the oldest to the newest, those of one second by their folder."""
        return self.report["created"], str(self.folder)

    def facts(self) -> dict[str, Any]:
        """What the merged report says of it."""
        marks = [each["fingerprint"] for each in environments_of(self.report)]
        return {
            "folder": str(self.folder),
            **{name: self.report[name] for name in ("created", "profile")},
            "rows": len(self.report["results"]),
            "environments": marks,
        }

    def file_of(self, row: Document) -> Path:
        """Where the row's own file of samples lies, if it is there."""
        name: str = row["samples"]
        return (self.folder / name).resolve()


def report(
    folders: Sequence[Path | str], *, out: Path | str = Path("artifacts"), comparison: Path | None = None
) -> Document:
    """Merge the reports in `folders` and write one report of all of them into `out`.

    A row is known by its key and its environment: shards of one machine add up to the report of one run, and
    rows of other machines stand beside them. Of rows that are there twice the one of the newest run counts,
    and the report says so in `notes`.

    Args:
        folders: each holds `report.json`, and the samples of its rows in `samples/` or `samples.npz`.
        out: also gets `rows.jsonl` and `samples/`, so that `bbx bench --resume` can go on there. May be one
            of `folders`, whose report is then made again.
        comparison: what `bbx compare --json` printed; rows that it found slower are shown as failures.

    Returns:
        The report, as in `report.json`: that of `bbx bench`, with `environments`, `runs` and `notes`, and
        in each row the `environment` that it was measured in.

    Raises:
        UsageError: no folder was named.
        ArtifactError: a folder has no report, or one that cannot be read; `out` cannot be written.
        ExhaustedError: the disk is full.
    """
    if not folders:
        raise UsageError(
            "No run was named.", hint="Type `bbx report DIR`, with a folder of `bbx bench --out`."
        )
    out = Path(out)
    named = {folder.resolve(): folder for folder in map(_folder, folders)}
    runs = sorted((_opened(folder) for folder in named.values()), key=lambda run: run.age)
    merged, sources = _merged(runs)
    if comparison is not None:
        merged["comparison"] = read_comparison(comparison)
    _copy_samples(merged, sources, out)
    if out.resolve() not in named:
        lines = (json.dumps(row, allow_nan=False) + "\n" for row in merged["results"])
        replace(out / "rows.jsonl", "".join(lines))
    write(merged, out)
    return merged


def _folder(path: Path | str) -> Path:
    """A run's folder, also where its `report.json` was named."""
    return Path(path).parent if Path(path).is_file() else Path(path)


def _opened(folder: Path) -> _Run:
    found = read_report(folder)
    return _Run(folder, found, traces_in(folder, found))


_Identity = tuple[str, str]
"""A row's key and the fingerprint of its environment."""

_Source = tuple[_Run, Document]
"""A row as its run has it."""


def _merged(runs: Sequence[_Run]) -> tuple[Document, list[_Source]]:
    """The merged document, and for each of its rows where it comes from."""
    sources, notes = _newest_rows(runs)
    environments = {each["fingerprint"]: each for run in runs for each in environments_of(run.report)}
    rows = [_placed(row, mark, several=len(environments) > 1) for (_, mark), (_, row) in sources.items()]
    missing = _missing(runs, sources)
    # Reports of bbx 0.1 say only how many rows they did not reach.
    untold = sum(
        run.report["planned"] - len(run.report["results"]) for run in runs if "missing" not in run.report
    )
    left_out = {json.dumps(each, sort_keys=True): each for run in runs for each in run.report["left_out"]}
    newest = runs[-1].report
    merged = {
        "schema": newest["schema"],
        "created": newest["created"],
        "profile": ", ".join(dict.fromkeys(run.report["profile"] for run in runs)),
        "complete": not missing and not untold,
        "planned": len(rows) + len(missing) + untold,
        "missing": missing,
        "verdicts": count_verdicts(rows),
        "environment": newest["environment"],
        "environments": list(environments.values()),
        "runs": [run.facts() for run in runs],
        "notes": notes,
        "results": rows,
        "left_out": list(left_out.values()),
    }
    return merged, list(sources.values())


def _newest_rows(runs: Sequence[_Run]) -> tuple[dict[_Identity, _Source], list[str]]:
    """Of each row the newest, those of one subject together as in one run; and what was put aside."""
    sources: dict[_Identity, _Source] = {}
    put_aside: Counter[tuple[Path, Path]] = Counter()
    for run in runs:
        for row in run.report["results"]:
            identity = row["key"], fingerprint_in(run.report, row)
            if identity in sources:
                earlier, old = sources[identity]
                put_aside[earlier.folder, run.folder] += _measured(old) != _measured(row)
            sources[identity] = run, row
    notes = [
        f"{count} row{'s' if count > 1 else ''} of {old} and {new} are the same row of the same environment: "
        f"those of {new} count, which is newer."
        for (old, new), count in put_aside.items()
        if count
    ]
    subjects = list(dict.fromkeys(row["subject"] for _, row in sources.values()))
    together = sorted(sources.items(), key=lambda item: subjects.index(item[1][1]["subject"]))
    return dict(together), notes


def _measured(row: Document) -> Document:
    """A row without what merging writes into it."""
    return {name: value for name, value in row.items() if name not in ("environment", "samples")}


def _placed(row: Document, mark: str, *, several: bool) -> Document:
    """A row with its environment, and with a path of its samples that no other row has."""
    folder = PurePosixPath("samples", mark[:8]) if several else PurePosixPath("samples")
    name = row["samples"] and str(folder / PurePosixPath(row["samples"]).name)
    return row | {"environment": mark, "samples": name}


def _missing(runs: Sequence[_Run], sources: dict[_Identity, _Source]) -> list[str]:
    """Keys of the rows that a run did not get to, and no other run of its environment either."""
    wanted = (
        (key, run.report["environment"]["fingerprint"])
        for run in runs
        for key in run.report.get("missing", [])
    )
    return [key for key, _ in dict.fromkeys(each for each in wanted if each not in sources)]


def _copy_samples(merged: Document, sources: Sequence[_Source], out: Path) -> None:
    """Bring the rows' traces into `out`; a row whose trace is lost says so."""
    lost = 0
    for row, (run, original) in zip(merged["results"], sources, strict=True):
        if not row["samples"]:
            continue
        trace = run.traces(original)
        if trace is None:
            row["samples"] = None
            lost += 1
        elif run.file_of(original) != (out / row["samples"]).resolve():
            write_samples(out / row["samples"], *trace)
    if lost:
        merged["notes"].append(f"The raw samples of {lost} row{'s' if lost > 1 else ''} are not there.")
