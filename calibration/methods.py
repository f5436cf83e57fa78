"""Names of calibration methods. Imports nothing heavy: commands and steps check them before any work."""

from __future__ import annotations

import re

from bbx.errors import UsageError

AUTO = "auto"
"""Chooses between the methods by held-out images."""
_NAMED = ("max", "percentile", "entropy", "mse")


def require_method(method: str) -> None:
    """Fail where this is no single method.

    Raises:
        UsageError: names those that exist.
    """
    if method not in _NAMED and percentile_of(method) is None:
        raise UsageError(
            f"There is no calibration method {method!r}.",
            hint="Type one of: auto, max, percentile:99.99, entropy, mse.",
        )


def percentile_of(method: str) -> float | None:
    """The P of `percentile:P`, in (50, 100]; None of any other text."""
    match = re.fullmatch(r"percentile:(\d+(?:\.\d+)?)", method)
    if match is None or not 50 < float(match[1]) <= 100:
        return None
    return float(match[1])
