"""A reason not to believe a number, and the verdict that reasons come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

Verdict = Literal[
    "failed",
    "parity_failed",
    "inconsistent",
    "unknown_environment",
    "throttled",
    "contended",
    "enqueue_bound",
    "transfer_bound",
    "unstable",
    "not_converged",
    "valid",
]
"""Gravest first. `failed` is a row that has no measurement at all."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason not to believe a number.

    Attributes:
        text: what was seen, with its numbers.
        remedy: what to do about it.
    """

    verdict: Verdict
    text: str
    remedy: str

    def to_json(self) -> dict[str, str]:
        """As the report shows it."""
        return asdict(self)


def verdict_of(reasons: Sequence[Reason]) -> Verdict:
    """The gravest verdict among the reasons; `valid` when there are none."""
    return min((reason.verdict for reason in reasons), key=VERDICTS.index, default="valid")
