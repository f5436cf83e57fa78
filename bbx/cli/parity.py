"""`bbx parity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bbx.cli import options as opt
from bbx.cli.conditions import Counts, flat, parse_counts
from bbx.cli.output import print_json, print_table, reporting
from bbx.errors import CheckFailed

Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        "--calib",
        help="Images to compare on, as for calibration. Default: what the calibration held out, else bbx's "
        "photographs.",
    ),
]


@opt.with_options("model")
def parity(
    artifact: Annotated[Path, typer.Argument(help="An ONNX graph, TorchScript, pt2 or engine.")],
    *,
    options: dict[str, Any],
    against: Annotated[
        str | None,
        typer.Option(help="The reference: a model or an artefact. Default: the oldest stage that is found."),
    ] = None,
    images: Images = None,
    batch: Annotated[
        list[Counts] | None,
        typer.Option(parser=parse_counts, metavar="N,…", help="Sizes of the batches to compare at."),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load engines and programs that bbx did not make here.")
    ] = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Compare every stage from the torch module to an artefact, and say where parity is lost."""
    from bbx import verify_api

    with reporting(quiet=quiet) as listener:
        try:
            document = verify_api.parity(
                artifact,
                against=against,
                images=images,
                batch=flat(batch),
                trust=trust,
                listener=listener,
                **options,
            )
        except CheckFailed as error:
            if error.document is not None and not as_json:
                print_stages(error.document)
            raise
    if as_json:
        print_json(document)
    else:
        print_stages(document)


def print_stages(document: dict[str, Any]) -> None:
    """One row a stage, and what did not run."""
    rows = [_row(stage) for stage in document["stages"]]
    typer.echo(f"{document['verdict']}: {document['artifact']} against {document['against']}")
    columns = ["stage", "subject", "precision", "verdict", "to the first", "to the one before", "agreement"]
    print_table("", columns, rows, right=4)
    for stage in document["stages"]:
        if not stage["ran"]:
            typer.echo(f"not run   {stage['stage']}: {stage['reason']}")


def _row(stage: dict[str, Any]) -> list[str]:
    verdict = stage["verdict"] or ("reference" if stage["ran"] else "not run")
    return [
        stage["stage"],
        stage["subject"],
        stage["precision"],
        verdict,
        distance_text(stage["to_first"]),
        distance_text(stage["to_previous"]),
        _metric_text(stage["metric"]),
    ]


def distance_text(parity: dict[str, Any] | None) -> str:
    """The worst distance of a comparison: relative L2, or how many detections are matched."""
    if parity is None:
        return "–"
    found = [case["detections"] for case in parity["cases"] if "detections" in case]
    if found:
        matched, missing = (sum(each[key] for each in found) for key in ("matched", "missing"))
        return f"{matched} of {matched + missing}"
    values = [distance["rel_l2"] for case in parity["cases"] for distance in case["outputs"].values()]
    return "∞" if None in values else f"{max(values):.1e}"


def _metric_text(metric: dict[str, Any] | None) -> str:
    return "–" if metric is None else f"{metric['to_first']:.1%} of {metric['of']}"
