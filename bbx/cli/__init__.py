"""The command line: the only place in bbx that prints or exits."""

from __future__ import annotations

from bbx.cli.app import main

__all__ = ["main"]
