"""The one tree of errors that bbx raises on purpose.

Every error says what was asked, what exists and what to type; the command line prints it as one
line and exits with the class's code. Anything else that escapes is a defect of bbx.

    BbxError                     1   an error that bbx names
    ├── ModelError               1   unknown model, bad option for a model, size below its minimum
    ├── WeightsError             1   checkpoint unreadable, keys or head size that do not fit
    ├── ArtifactError            1   truncated, foreign, changed or unreadable artefact
    ├── ExportError              1   no exporter could express the model
    ├── BuildError               1   the engine builder refused the graph
    ├── UsageError               2   options that do not go together
    ├── CheckFailed              3   parity, precision or accuracy is not what was asked
    ├── RegressionFound          4   a comparison found `slower`
    ├── UnavailableError         5   this machine lacks a library, a GPU or a driver
    ├── ExhaustedError           6   out of memory or disk
    └── Cancelled              130   the user stopped it
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class BbxError(Exception):
    """Base of every error that bbx raises on purpose.

    Args:
        message: what was asked and what is wrong, in one line.
        hint: what to type instead, in one line; empty when there is nothing to type.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class ModelError(BbxError):
    """The model cannot be named, found or built with these options."""


class WeightsError(BbxError):
    """The checkpoint cannot be read or does not fit the model."""


class ArtifactError(BbxError):
    """The artefact is truncated, foreign, changed since it was proven, or unreadable."""


class ExportError(BbxError):
    """The model cannot be expressed in the format that was asked for."""


class BuildError(BbxError):
    """The engine builder refused the graph."""


class UsageError(BbxError):
    """The options do not go together."""

    exit_code = 2


class CheckFailed(BbxError):
    """A parity, precision or accuracy check failed; the artefact is kept under a name that says so.

    Attributes:
        document: the JSON document of the command, with the failing verdict; None where there is none.
    """

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "", document: dict[str, Any] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.document = document


class RegressionFound(BbxError):
    """A comparison found `slower`."""

    exit_code = 4


class UnavailableError(BbxError):
    """This machine lacks a library, a GPU or a driver."""

    exit_code = 5

    def __init__(self, message: str, *, hint: str = "Run `bbx doctor` to see what is missing.") -> None:
        super().__init__(message, hint=hint)


class ExhaustedError(BbxError):
    """Out of memory or disk."""

    exit_code = 6


class Cancelled(BbxError):
    """The user stopped it."""

    exit_code = 130


def _tree(root: type[BbxError]) -> dict[str, type[BbxError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def error_named(name: str) -> type[BbxError]:
    """The class of the tree with this name; `BbxError` itself for a name that is not in it."""
    return _tree(BbxError).get(name, BbxError)


def nearest(asked: str, known: Iterable[str], *, most: int = 4) -> list[str]:
    """The known names closest to what was asked, best first, at most `most` of them."""
    names = sorted(known)
    lowered = {name.lower(): name for name in names}
    close = difflib.get_close_matches(asked.lower(), list(lowered), n=most, cutoff=0.55)
    return [lowered[name] for name in close]


def did_you_mean(asked: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known names, or all of them when none is near and they are few."""
    names = sorted(known)
    close = nearest(asked, names)
    if close:
        return f"Nearest: {', '.join(close)}."
    return f"Known: {', '.join(names)}." if len(names) <= 12 else ""
