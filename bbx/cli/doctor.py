"""`bbx doctor`."""

from __future__ import annotations

from typing import Any

import typer

from bbx.cli import options as opt
from bbx.cli.output import print_json


def doctor(as_json: opt.Json = False) -> int:
    """Say what this machine can do, what is missing, and what mends it."""
    from bbx.doctor import examine

    document = examine()
    if as_json:
        print_json(document)
    else:
        typer.echo(summary(document))
    return 0


def summary(document: dict[str, Any]) -> str:
    """The document as text."""
    return str(document)
