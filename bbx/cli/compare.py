"""`bbx compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bbx.cli import options as opt
from bbx.cli.output import print_json, print_table, reporting
from bbx.errors import RegressionFound, UsageError


def compare(
    sides: Annotated[
        list[Path], typer.Argument(metavar="BASE HEAD", help="Two artefacts, or two reports of `bbx bench`.")
    ],
    *,
    against_baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A report that stands for BASE; then only HEAD is named."),
    ] = None,
    effect: Annotated[
        float | None,
        typer.Option(help="Smallest change that matters, as a share. Default: 0.02 live, 0.05 for reports."),
    ] = None,
    key: Annotated[list[str] | None, typer.Option(help="Reports: compare this row; repeat it.")] = None,
    despite: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Reports: a fact of the environment that may differ; repeat it."),
    ] = None,
    runtime: Annotated[
        list[str] | None, typer.Option(help="Artefacts: what runs both, or twice: BASE's and HEAD's.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Artefacts: rows of the input.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Artefacts: threads inside an operation.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Artefacts: load programs that bbx did not make here.")
    ] = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Say whether HEAD is faster or slower than BASE, the same, or not known."""
    from bbx.benchmarks.compare import compare as compare_both

    base, head = _two(sides, against_baseline)
    with reporting(quiet=quiet) as listener:
        document = compare_both(
            base,
            head,
            effect=effect,
            runtime=runtime or (),
            batch=batch,
            threads=threads,
            keys=key or (),
            despite=despite or (),
            trust=trust,
            listener=listener,
        )
    if as_json:
        print_json(document)
    else:
        _print(document)
    return RegressionFound.exit_code if document["verdicts"].get("slower") else 0


def _two(sides: list[Path], baseline: Path | None) -> tuple[Path, Path]:
    wanted = 2 if baseline is None else 1
    if len(sides) != wanted:
        raise UsageError(
            f"{len(sides)} paths were given, and {wanted} are needed.",
            hint="Type: bbx compare BASE HEAD, or: bbx compare HEAD --against-baseline FILE",
        )
    return (sides[0], sides[1]) if baseline is None else (baseline, sides[0])


def _print(document: dict[str, Any]) -> None:
    """The pairs as a table, those that changed first, and what they are worth."""
    order = {"slower": 0, "faster": 1, "ambiguous": 2, "same": 3}
    pairs = sorted(document["pairs"], key=lambda pair: order[pair["verdict"]])
    rows = [[pair["key"], *_cells(pair), pair["verdict"], pair["reason"]] for pair in pairs]
    if document["control"] is not None:
        rows.append(["control: base and itself", *_cells(document["control"]), "", ""])
    print_table("", ["row", "head / base", "95 % interval", "verdict", ""], rows, right=5)
    lines = [f"not compared: {each['key']}: {each['reason']}" for each in document.get("not_compared", ())]
    lines += [f"differs: {text}" for text in document["differs"]]
    if document.get("answers", {}).get("verdict") == "fail":
        lines.append(f"the answers differ: {document['answers']['reasons'][0]}")
    for name in ("only_in_base", "only_in_head"):
        lines += [f"{name.replace('_', ' ')}: {key}" for key in document.get(name, ())]
    if document["void"]:
        lines.append(f"void: {document['void']}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in document["verdicts"].items()) or "no pair"
    lines += [f"{counts}; a change of {document['effect']:.0%} or more counts.", document["guarantee"]]
    sys.stdout.write("\n" + "\n".join(lines) + "\n")


def _cells(pair: dict[str, Any]) -> list[str]:
    low, high = pair["ci95"]
    return [f"{pair['ratio']:.3f}", f"{low:.3f}–{high:.3f}"]
