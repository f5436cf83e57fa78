"""Files that a dataset names, and what to say when they are not there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bbx.errors import BbxError

BROKEN_PERCENT = 1
"""Of the images of a dataset that may be broken; with more, it is not what it was."""


def require_files(files: Sequence[tuple[str, Path]], what: str) -> None:
    """Fail where files do not exist, naming the first few.

    Args:
        files: what to call each, and its path.
        what: the beginning of the sentence.

    Raises:
        BbxError: at least one does not exist.
    """
    missing = [f"{path} ({name})" for name, path in files if not path.is_file()]
    if missing:
        raise BbxError(f"{what} that do not exist: {few(missing)}.")


def require_few_broken(
    reasons: Sequence[str], *, among: int, cannot_be: str, hint: str = "Remove or replace them."
) -> None:
    """Fail where more than `BROKEN_PERCENT` of `among` images are broken.

    Args:
        reasons: one for each broken image.
        cannot_be: what is wrong with them, as in "cannot be decoded".
        hint: what to do about it.

    Raises:
        BbxError: they are too many.
    """
    if len(reasons) * 100 <= among * BROKEN_PERCENT:
        return
    raise BbxError(
        f"{len(reasons)} images of {among} cannot be {cannot_be}, and at most {BROKEN_PERCENT} % may be: "
        f"{few([reason.rstrip('.') for reason in reasons])}.",
        hint=hint,
    )


def json_in(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        BbxError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BbxError(f"{path} cannot be read as JSON: {error}.") from error


def few(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def names_in(path: Path) -> tuple[str, ...]:
    """The names of classes in a text file, one a line, in the network's numbering.

    Raises:
        BbxError: it cannot be read, has no name, or has one twice.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BbxError(f"The names of the classes cannot be read from {path}: {error}.") from error
    names = tuple(line for line in lines if line)
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise BbxError(f"{path} names classes twice: {few(twice)}.")
    if not names:
        raise BbxError(f"{path} names no class.", hint="Write one name on each line.")
    return names
