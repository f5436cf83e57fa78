"""`bbx compare`: two artefacts live, or two reports by their samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from bbx.benchmarks.decide import CONFIDENCE, Finding, fired
from bbx.benchmarks.duet import PAIRS
from bbx.benchmarks.journal import Document
from bbx.benchmarks.live import LIVE_TASK, VOID, Side, side
from bbx.benchmarks.plan import format_of
from bbx.benchmarks.stored import Stored, common_keys, compare_rows, require_same_machine, stored
from bbx.errors import UsageError
from bbx.process import Listener, run_task, silent
from bbx.types import SCHEMA

LIVE_EFFECT = 0.02
STORED_EFFECT = 0.05
"""Runs of one network at two times differ by a few per cent where nothing was changed."""

_GUARANTEES = {
    "live": f"Measured now, in turns (ABBA, {PAIRS} pairs), beside a control of base against itself: what "
    "disturbed the machine disturbed both.",
    "stored": "Read from samples that were taken at two times. What changed about the machine between them "
    "is in the ratio, and no interval knows it: a weaker guarantee than a live comparison.",
}


def compare(
    base: Path | str,
    head: Path | str,
    *,
    effect: float | None = None,
    runtime: Sequence[str] = (),
    batch: int = 1,
    threads: int | None = None,
    keys: Collection[str] = (),
    despite: Collection[str] = (),
    trust: bool = False,
    listener: Listener = silent,
) -> Document:
    """Say whether `head` is faster or slower than `base`, the same, or not known.

    Two artefacts are measured now; two reports (folders, or their `report.json`) are compared on the samples
    that they kept, row by row.

    Args:
        effect: smallest change that matters, as a share; 0.02 live and 0.05 for reports.
        runtime: artefacts: what runs both, or first base and then head; by default what takes their format.
        batch: artefacts: rows of the input.
        threads: artefacts: intra-op threads.
        keys: reports: only these rows.
        despite: reports: facts of the environment that may differ, such as `libraries.torch`.
        trust: artefacts: load programs that bbx did not make here.
        listener: hears progress.

    Returns:
        The document of `bbx compare --json`. `ratio` is head's time over base's.

    Raises:
        ArtifactError: a file is missing, cut short, or of another schema.
        UsageError: the two cannot be compared; says what differs.
        BbxError: an artefact cannot be run.
    """
    base, head = Path(base), Path(head)
    if effect is not None and not 0 < effect < 1:
        raise UsageError(
            f"--effect is a share between 0 and 1, and is {effect:g}.", hint="Type --effect 0.02."
        )
    kinds = {_kind(base), _kind(head)}
    if len(kinds) == 2:
        raise UsageError(
            f"{base} and {head} are not comparable: one is an artefact and the other a report.",
            hint="Name two artefacts, or two reports.",
        )
    if kinds == {"artefact"}:
        _refuse("reports", {"--key": keys, "--despite": despite})
        sides = _sides(base, head, runtime)
        options = {"batch": batch, "threads": threads, "trust": trust, "effect": effect or LIVE_EFFECT}
        return _live(*sides, options, listener)
    _refuse("artefacts", {"--runtime": runtime, "--threads": threads, "--trust": trust})
    return _stored(stored(base), stored(head), keys, despite, effect or STORED_EFFECT)


def _kind(path: Path) -> Literal["artefact", "report"]:
    return "artefact" if format_of(path) is not None else "report"


def _refuse(kind: str, options: Mapping[str, object]) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"{given[0]} belongs to the comparison of two {kind}.", hint="Leave it out.")


def _sides(base: Path, head: Path, runtime: Sequence[str]) -> tuple[Side, Side]:
    if len(runtime) > 2:
        raise UsageError("--runtime is given once for both, or twice.")
    names: list[str | None] = [*runtime] * (2 if len(runtime) == 1 else 1) or [None, None]
    return side(base, names[0]), side(head, names[1])


def _live(base: Side, head: Side, options: dict[str, Any], listener: Listener) -> Document:
    request = {
        **{name: str(each.path) for name, each in (("base", base), ("head", head))},
        "base_runtime": base.runtime,
        "head_runtime": head.runtime,
        **options,
    }
    found = run_task(LIVE_TASK, request, listener=listener)
    finding, control = Finding(**found["finding"]), Finding(**found["control"])
    key = f"{head.path.name}/{head.runtime}/b{options['batch']}"
    mine = {
        name: found[name] for name in ("base_ns", "block_runs", "log_ratios", "control_log_ratios", "answers")
    }
    return {
        **_document("live", options["effect"], {key: finding}, control=control),
        "base": base.facts(),
        "head": head.facts(),
        "differs": _differences(base, head),
        **mine,
    }


def _differences(base: Side, head: Side) -> list[str]:
    """What differs about the artefacts besides their content."""
    before, after = base.facts(), head.facts()
    return [
        f"{name}: {before[name]} and {after[name]}"
        for name in ("runtime", "precision")
        if before[name] != after[name]
    ]


def _stored(
    base: Stored, head: Stored, keys: Collection[str], despite: Collection[str], effect: float
) -> Document:
    differs = require_same_machine(base, head, despite=despite)
    common = common_keys(base, head, keys)
    found = compare_rows(base, head, common, effect=effect)
    return {
        **_document("stored", effect, found.findings),
        "base": base.facts(),
        "head": head.facts(),
        "differs": differs,
        "controls": {key: asdict(control) for key, control in found.controls.items()},
        "not_compared": [{"key": key, "reason": why} for key, why in found.not_compared.items()],
        "only_in_base": [key for key in base.rows if key not in head.rows],
        "only_in_head": [key for key in head.rows if key not in base.rows],
    }


def _document(
    mode: Literal["live", "stored"],
    effect: float,
    findings: Mapping[str, Finding],
    *,
    control: Finding | None = None,
) -> Document:
    """What both kinds of comparison say."""
    void = control is not None and fired(control)
    return {
        "schema": SCHEMA,
        "mode": mode,
        "guarantee": _GUARANTEES[mode],
        "effect": effect,
        "confidence": CONFIDENCE,
        "verdicts": dict(Counter(found.change for found in findings.values())),
        "void": VOID if void else None,
        "control": _numbers(control) if control else None,
        "pairs": [{"key": key, **_numbers(found)} for key, found in findings.items()],
    }


def _numbers(found: Finding) -> Document:
    return {
        "ratio": found.ratio,
        "ci95": [found.low, found.high],
        "verdict": found.change,
        "p": found.p,
        "reason": found.reason,
    }
