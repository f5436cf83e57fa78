"""`bbx report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bbx.cli import options as opt
from bbx.cli.output import print_json


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders that `bbx bench --out` or `bbx report` wrote.")
    ],
    *,
    comparison: Annotated[
        Path | None,
        typer.Option(
            help="What `bbx compare BASE HEAD --json` printed: rows that became slower are failures."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder.")] = opt.DEFAULT_OUT,
    as_json: opt.Json = False,
) -> None:
    """Merge runs, also of several machines and of shards, into one report."""
    from bbx.benchmarks.reports import report as merge

    document = merge(folders, out=out, comparison=comparison)
    if as_json:
        print_json(document)
    else:
        typer.echo(summary(document, out))


def summary(document: dict[str, Any], out: Path) -> str:
    """What was merged, and where it is."""
    rows, runs = document["results"], document["runs"]
    machines = len(document["environments"])
    counts = ", ".join(f"{count} {verdict}" for verdict, count in document["verdicts"].items())
    of = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    where = f"{machines} environment{'s' if machines > 1 else ''}"
    lines = [f"{len(rows)} rows of {of} in {where}: {counts}. Report: {out / 'report.html'}"]
    return "\n".join([*lines, *(f"note      {note}" for note in document["notes"])])
