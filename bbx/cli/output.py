"""What users see: one JSON document or a short text on stdout; progress, warnings and errors on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bbx.errors import BbxError, CheckFailed
from bbx.process import Event, Listener, Notice
from bbx.types import SCHEMA


def print_json(document: dict[str, Any]) -> None:
    """The command's one document."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def print_failure(error: BbxError, *, as_json: bool, document: dict[str, Any] | None = None) -> int:
    """Say in one line what went wrong, and give the exit code.

    With `--json`, stdout gets the document of a failed check, or one that holds the error.

    Args:
        document: of a command that ended with this error and has something to show all the same.
    """
    sys.stderr.write(f"error: {error}\n")
    if as_json:
        document = error.document if isinstance(error, CheckFailed) else document
        fault = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
        print_json({"schema": SCHEMA, **(document or {}), "error": fault | {"exit_code": error.exit_code}})
    return error.exit_code


def print_table(title: str, columns: list[str], rows: list[list[str]], *, right: int = 1) -> None:
    """A table on stdout; all columns from index `right` on are aligned to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index >= right else "left", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    # A pipe has no width: nothing is cut there.
    Console(highlight=False, width=None if sys.stdout.isatty() else 240).print(table)


class _Lines:
    """Progress where nobody watches: one line a stage."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, event: Event | Notice) -> None:
        if isinstance(event, Notice):
            _print_notice(event)
        elif event.stage != self._stage:
            self._stage = event.stage
            sys.stderr.write(f"{event.stage}{': ' + event.detail if event.detail else ''}\n")


def _print_notice(notice: Notice) -> None:
    bold, plain = ("\x1b[1;33m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    sys.stderr.write(f"{bold}warning: {notice.text}{plain}\n")


@contextmanager
def reporting(*, quiet: bool = False) -> Iterator[Listener]:
    """A listener that shows progress on stderr: a live line on a terminal, else one line a stage.

    Args:
        quiet: show warnings only.
    """
    if quiet:
        yield lambda event: _print_notice(event) if isinstance(event, Notice) else None
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        from rich.console import Console

        console, begun = Console(stderr=True), time.monotonic()
        with console.status("starting") as status:

            def show(event: Event | Notice) -> None:
                if isinstance(event, Notice):
                    console.print(f"[bold yellow]warning:[/] {event.text}", highlight=False)
                    return
                share = "" if event.fraction is None else f" {event.fraction:.0%}"
                seconds = time.monotonic() - begun
                status.update(f"{event.stage}{share} [dim]{event.detail} · {seconds:.0f} s[/]")

            yield show


def format_bytes(count: float) -> str:
    """A size with three digits and a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable: the loop ends at GiB")
