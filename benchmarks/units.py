"""Numbers for people. Nanoseconds and bytes everywhere else; formatted only here."""

from __future__ import annotations

import math


def significant(value: float, digits: int = 4) -> str:
    """A positive number with so many significant digits, never in scientific notation."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def milliseconds(ns: float) -> str:
    """A duration in milliseconds, with four significant digits."""
    return f"{significant(ns / 1e6)} ms"


def mebibytes(count: int) -> str:
    """A size in MiB."""
    return f"{significant(count / 2**20, 3)} MiB"


def duration(seconds: float) -> str:
    """A time to wait, as `40 s`, `12 min` or `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"
