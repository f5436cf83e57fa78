"""The rows of a benchmark as they end, with the time left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bbx.benchmarks.conditions import described
from bbx.benchmarks.units import duration, mebibytes, milliseconds, significant
from bbx.cli.output import print_table, reporting
from bbx.process import Event, Listener, Notice

OnRow = Callable[[int, int, float | None, dict[str, Any]], None]

COLUMNS = [
    "subject",
    "runtime",
    "precision",
    "conditions",
    "batch",
    "median",
    "95 % interval",
    "img/s",
    "memory",
    "parity",
    "",
]
_RIGHT = 4


@contextmanager
def live_table(*, quiet: bool) -> Iterator[tuple[Listener, OnRow]]:
    """A listener for builds and a callback for rows; on a terminal, a table that grows on stderr."""
    if quiet or not sys.stderr.isatty():
        with reporting(quiet=quiet) as listener:
            yield listener, _print_nothing if quiet else _print_row
        return
    with _growing_table() as callbacks:
        yield callbacks


def _print_nothing(done: int, total: int, eta_s: float | None, row: dict[str, Any]) -> None:
    """`--quiet` shows the result only."""


def _print_row(done: int, total: int, eta_s: float | None, row: dict[str, Any]) -> None:
    left = "" if eta_s is None else f"  ({duration(eta_s)} left)"
    sys.stderr.write(f"[{done}/{total}] {'  '.join(cell for cell in cells(row) if cell)}{left}\n")


@contextmanager
def _growing_table() -> Iterator[tuple[Listener, OnRow]]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True)
    rows: list[list[str]] = []
    status = Text("starting", style="dim")

    def view() -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, column in enumerate(COLUMNS):
            table.add_column(column, justify="right" if index >= _RIGHT else "left", no_wrap=True)
        # Only what fits the screen is redrawn; the whole table is printed at the end.
        for row in rows[-max(4, console.height - 6) :]:
            table.add_row(*row)
        return Group(table, status)

    with Live(view(), console=console, refresh_per_second=4, transient=True) as live:
        shown = {"progress": ""}

        def hear(event: Event | Notice) -> None:
            if isinstance(event, Notice):
                live.console.print(f"[bold yellow]warning:[/] {event.text}", highlight=False)
                return
            status.plain = f"{shown['progress']}{event.stage} {event.detail}"
            live.update(view())

        def on_row(done: int, total: int, eta_s: float | None, row: dict[str, Any]) -> None:
            left = "" if eta_s is None else f", {duration(eta_s)} left"
            shown["progress"] = f"{done} of {total} rows{left} · "
            rows.append(cells(row))
            status.plain = shown["progress"]
            live.update(view())

        yield hear, on_row


def cells(row: dict[str, Any]) -> list[str]:
    """One row of the table, as text; the last cell says why a row is not `valid`."""
    identity = [row["subject"], row["runtime"], row["precision"], described(row), str(row["batch"])]
    parity = (row.get("parity") or {}).get("verdict", "–")
    latency = row["latency_ns"]
    if not latency:
        reason = row["reasons"][0]["text"] if row["reasons"] else ""
        return [*identity, "–", "–", "–", "–", parity, f"{row['verdict']}: {reason}"[:70]]
    interval = latency["ci95"]
    return [
        *identity,
        milliseconds(latency["median"]),
        "–".join(significant(edge / 1e6) for edge in interval) if interval else "–",
        significant(row["throughput_per_s"], 3) if row["throughput_per_s"] else "–",
        mebibytes(row["peak_bytes"]) if row["peak_bytes"] else "–",
        parity,
        "" if row["verdict"] == "valid" else row["verdict"],
    ]


def print_results(document: dict[str, Any], out: Path) -> None:
    """The whole table and where the report is, on stdout."""
    from bbx.benchmarks.reports.accuracies import accuracy_cells, accuracy_columns

    results = document["results"]
    metrics = accuracy_columns(results)
    rows = [[*made[:-1], *accuracy_cells(row, metrics), made[-1]] for row in results for made in [cells(row)]]
    print_table("", [*COLUMNS[:-1], *metrics, COLUMNS[-1]], rows, right=_RIGHT)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in document["verdicts"].items())
    sys.stdout.write(f"\n{len(document['results'])} rows: {counts}. Report: {out / 'report.md'}\n")
