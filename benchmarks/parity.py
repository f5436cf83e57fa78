"""Whether what was measured computes what it should.

The answer that is compared first is the one of the measured path itself (`Bound.outputs`): a fast path
that computes something else is the oldest mistake in benchmarking.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bbx.artifact import Manifest
from bbx.exporter.judging import judge
from bbx.exporter.verify import Case, Infer, reference_outputs
from bbx.runners.base import Bound, Runner
from bbx.types import Postprocess, Precision

_GRAVITY = {"pass": 0, "inconclusive": 1, "fail": 2}


def against_reference(
    reference: Runner,
    runner: Runner,
    bound: Bound,
    cases: Sequence[Case],
    *,
    precision: Precision,
    postprocess: Postprocess | None,
    random_weights: bool = False,
) -> dict[str, Any]:
    """Compare the measured path, then the runner, with an open reference runner.

    Args:
        cases: the first is the one that `bound` was bound to.
        postprocess: what the outputs are; None where nobody said.
        random_weights: see `judge`.

    Returns:
        As `bbx.exporter.verify.Parity.to_json`.
    """
    wanted = reference_outputs(cases, reference.infer)
    measured_first = _measured_first(runner, bound, cases)
    return judge(
        cases,
        wanted,
        measured_first,
        precision,
        postprocess,
        against=reference.name,
        random_weights=random_weights,
    ).to_json()


def measured_path(
    runner: Runner,
    bound: Bound,
    cases: Sequence[Case],
    precision: Precision,
    postprocess: Postprocess | None,
    *,
    proven: bool = False,
) -> dict[str, Any]:
    """Compare the measured path with a plain inference of the same runner.

    Args:
        cases: the first is the one that `bound` was bound to; another shows that answers depend on the
            input.
        proven: they were seen to when the artefact was made, so one answer for all inputs is wrong.
    """
    wanted = reference_outputs(cases, runner.infer)
    answers = [bound.outputs(), *wanted[1:]]
    against = f"{runner.name}, not measured"
    given = iter(answers)
    found = judge(cases, wanted, lambda _: next(given), precision, postprocess, against=against).to_json()
    same = proven and found["verdict"] == "inconclusive"
    return found | {"verdict": "fail"} if same else found


def _measured_first(runner: Runner, bound: Bound, cases: Sequence[Case]) -> Infer:
    measured = cases[0].feeds

    def infer(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        return bound.outputs() if feeds is measured else runner.infer(feeds)

    return infer


def recorded(manifest: Manifest | None) -> dict[str, Any] | None:
    """What was found when the artefact was made; None where its manifest says nothing of parity."""
    return None if manifest is None else manifest.document.get("parity")


def worst(found: Iterable[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The gravest finding, the first of those that are equally grave; None when there is none."""
    known = [each for each in found if each is not None]
    return max(known, key=lambda each: _GRAVITY[each["verdict"]], default=None)
