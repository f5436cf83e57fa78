"""Names of calibration methods. Imports nothing heavy: commands and steps check them before any work."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, get_args

from bbx.errors import UsageError

AUTO = "auto"
"""Chooses between the methods by held-out images."""
RefineStep = Literal["equalise", "rounding", "bias"]
REFINE_STEPS: tuple[RefineStep, ...] = get_args(RefineStep)
"""What `--refine` does to the weights, in this order."""
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


def require_refinements(steps: Iterable[str]) -> None:
    """Fail where one of these is no refinement.

    Raises:
        UsageError: names those that exist.
    """
    unknown = [step for step in steps if step not in REFINE_STEPS]
    if unknown:
        raise UsageError(f"There is no refinement {unknown[0]!r}.", hint=f"Known: {', '.join(REFINE_STEPS)}.")
