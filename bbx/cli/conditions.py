"""Options that say under which conditions `bbx bench` measures."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from bbx.cli.options import precision_named


class ScenarioName(StrEnum):
    """`--scenario`."""

    SINGLE = "single"
    MULTI = "multi"
    OFFLINE = "offline"
    SERVER = "server"


class CacheName(StrEnum):
    """`--cache`."""

    HOT = "hot"
    COLD = "cold"


class ResidenceName(StrEnum):
    """`--residence`."""

    DEVICE = "device"
    PINNED = "pinned"
    PAGEABLE = "pageable"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Counts:
    """What `--batch` or `--threads` was given."""

    values: tuple[int, ...]


def parse_counts(text: str) -> Counts:
    """`1,2,4` as three numbers.

    Raises:
        typer.BadParameter: they are none.
    """
    try:
        return Counts(tuple(int(word) for word in text.split(",")))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of whole numbers. Type it like 1,2,4.") from None


def condition_options(  # noqa: PLR0917 - a group of options, never called
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, fp16, bf16; repeat it. Default: what the device is for.")
    ] = None,
    batch: Annotated[
        list[Counts] | None,
        typer.Option(parser=parse_counts, metavar="N,…", help="Images of a request; by default 1."),
    ] = None,
    scenario: Annotated[
        list[ScenarioName] | None,
        typer.Option(help="How requests follow one another; repeat it. Default: single."),
    ] = None,
    slo: Annotated[
        float | None,
        typer.Option(metavar="MS", help="server: milliseconds within which 99 % are to be answered."),
    ] = None,
    threads: Annotated[
        list[Counts] | None,
        typer.Option(parser=parse_counts, metavar="N,…", help="Threads inside an operation."),
    ] = None,
    cache: Annotated[
        list[CacheName] | None,
        typer.Option(help="What a run finds in the CPU's caches; repeat it. Default: hot."),
    ] = None,
    residence: Annotated[
        list[ResidenceName] | None,
        typer.Option(help="Where a request's input lies; repeat it. Default: where the runtime wants it."),
    ] = None,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="Use CUDA graphs on the runtimes that have them.")
    ] = False,
) -> None:
    """Options of `bbx.benchmarks.conditions.conditions`."""


def asked_for(options: dict[str, Any]) -> dict[str, Any]:
    """Take these options out of a command's, as `bbx.api.bench` wants them.

    Raises:
        UsageError: there is no such precision.
    """
    batches, threads = (flat(options.pop(name)) for name in ("batch", "threads"))
    scenarios, caches, residences = (
        [str(each) for each in options.pop(name) or ()] for name in ("scenario", "cache", "residence")
    )
    return {
        "precisions": [precision_named(name) for name in options.pop("precision") or ()],
        "batches": batches,
        "scenarios": scenarios,
        "slo_ms": options.pop("slo"),
        "threads": threads,
        "caches": caches,
        "residences": residences,
        "cuda_graph": options.pop("cuda_graph"),
    }


def flat(given: list[Counts] | None) -> list[int]:
    """The numbers of an option that may be repeated."""
    return [value for each in given or () for value in each.values]
