"""`bbx bench`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from bbx.cli import options as opt
from bbx.cli.conditions import asked_for, condition_options
from bbx.cli.output import print_failure, print_json
from bbx.errors import BbxError, CheckFailed, UnavailableError

_SECONDS = {"s": 1, "m": 60, "h": 3600}


class ProfileName(StrEnum):
    """`--profile`."""

    QUICK = "quick"
    REPORT = "report"
    LONG = "long"


@dataclass(frozen=True, slots=True)
class Part:
    """What `--shard` was given."""

    index: int
    count: int


def parse_part(text: str) -> Part:
    """`2/4` as the second of four parts.

    Raises:
        typer.BadParameter: it is nothing like that.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise typer.BadParameter(f"{text!r} is no part. Type the second of four as 2/4.")
    return Part(int(index), int(count))


def parse_duration(text: str) -> float:
    """`90s`, `20m` or `1.5h` in seconds.

    Raises:
        typer.BadParameter: it is nothing like that, or no time at all.
    """
    number, unit = text[:-1], _SECONDS.get(text[-1:])
    try:
        seconds = float(number) * (unit or 0)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise typer.BadParameter(f"{text!r} is no time. Type 90s, 20m or 1.5h.")
    return seconds


@opt.with_options(condition_options, "model")
def bench(
    subjects: Annotated[
        list[str] | None, typer.Argument(help="Models as for `bbx export`, or artefact files.")
    ] = None,
    *,
    options: dict[str, Any],
    everything: Annotated[bool, typer.Option("--all", help="Every preset.")] = False,
    runtime: Annotated[
        list[str] | None, typer.Option(help="eager, compile, torchscript, pt2, ort-cpu, …; repeat it.")
    ] = None,
    profile: Annotated[ProfileName, typer.Option(help="How long each row is measured.")] = ProfileName.QUICK,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load engines and programs that bbx did not make here.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip rows that are done and unchanged.")] = False,
    budget: Annotated[
        float | None,
        typer.Option(parser=parse_duration, metavar="TIME", help="Time to spend: 90s, 20m or 1.5h."),
    ] = None,
    shard: Annotated[
        Part | None,
        typer.Option(parser=parse_part, metavar="I/N", help="Measure this part of N, for as many jobs."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Labelled images as for `bbx eval`: accuracy beside latency.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="With --data: train, val or test.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="With --data: a file with the network's classes, one a line.")
    ] = None,
    out: opt.Out = opt.DEFAULT_OUT,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Measure models or artefacts on the runtimes of this machine, and write a report."""
    from bbx import api
    from bbx.cli.live_table import live_table, print_results

    asked = asked_for(options)
    with live_table(quiet=quiet) as (listener, on_row):
        document = api.bench(
            subjects or (),
            everything=everything,
            runtimes=runtime,
            profile=profile.value,
            out=out,
            resume=resume,
            trust=trust,
            budget_s=budget,
            shard=None if shard is None else (shard.index, shard.count),
            data=data,
            split=split,
            classes=classes,
            listener=listener,
            on_row=on_row,
            **asked,
            **options,
        )
    lacking = _lacking(document)
    if not as_json and (lacking is None or _measured(document)):
        print_results(document, out)
    if lacking is not None and exit_code(document) == lacking.exit_code:
        return print_failure(lacking, as_json=as_json, document=document)
    if as_json:
        print_json(document)
    return exit_code(document)


def _measured(document: dict[str, Any]) -> bool:
    return any(row["latency_ns"] for row in document["results"])


def _lacking(document: dict[str, Any]) -> UnavailableError | None:
    """What this machine lacks for the first row that it could not measure for want of it."""
    for row in document["results"]:
        if row.get("exit_code") == UnavailableError.exit_code:
            reason = row["reasons"][0]
            message = reason["text"].removeprefix(f"{UnavailableError.__name__}: ")
            return UnavailableError(message, hint=reason["remedy"])
    return None


def exit_code(document: dict[str, Any]) -> int:
    """What the rows come to.

    3 when a row's parity failed; 5 when one needs what this machine does not have; 1 when none could be
    measured; else 0: a row that failed in any other way is a row.
    """
    rows = document["results"]
    if any(row["verdict"] == "parity_failed" for row in rows):
        return CheckFailed.exit_code
    if any(row.get("exit_code") == UnavailableError.exit_code for row in rows):
        return UnavailableError.exit_code
    return 0 if _measured(document) else BbxError.exit_code
