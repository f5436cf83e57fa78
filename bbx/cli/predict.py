"""`bbx predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bbx.cli import options as opt
from bbx.cli.output import print_json, reporting
from bbx.errors import BbxError


@opt.with_options("model")
def predict(
    artifact: Annotated[str, typer.Argument(help="A checkpoint of `bbx train`, an artefact or a model.")],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...", help="Files, folders, or - for the bytes of one image on standard input."
        ),
    ],
    *,
    options: dict[str, Any],
    runtime: Annotated[
        str | None, typer.Option(help="eager, torchscript, ort-cpu, … Default: what fits.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="A file with the names of the classes, one a line.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classifiers: labels of an image.")] = 5,
    min_score: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Detectors: boxes of a lower score are left out.")
    ] = 0.5,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads inside an operation.")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load an engine or a program that bbx did not make here.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A folder for the images with the answers drawn.")
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Show what a model or an artefact sees on images."""
    from bbx import evaluate_api

    with reporting(quiet=quiet) as listener:
        document = evaluate_api.predict(
            artifact,
            [_standard_input() if each == "-" else each for each in images],
            runtime=runtime,
            classes=classes,
            top=top,
            min_score=min_score,
            batch=batch,
            threads=threads,
            trust=trust,
            out=out,
            listener=listener,
            **options,
        )
    if as_json:
        print_json(document)
    else:
        for entry in document["images"]:
            _print(entry)
    return BbxError.exit_code if any("error" in each for each in document["images"]) else 0


def _standard_input() -> bytes:
    given = sys.stdin.buffer.read()
    if not given:
        raise BbxError("There is no image on standard input.", hint="Type: bbx predict ARTIFACT - < IMAGE")
    return given


def _print(entry: dict[str, Any]) -> None:
    """A picture and what is on it."""
    if "error" in entry:
        typer.echo(f"{entry['image']}  not read")
        return
    typer.echo(f"{entry['image']}  {entry['width']} × {entry['height']}")
    for each in entry.get("labels", ()):
        typer.echo(f"  {_share(each['probability'])}  {each['class']}")
    for each in entry.get("detections", ()):
        x1, y1, x2, y2 = each["box"]
        typer.echo(f"  {_share(each['score'])}  {each['class']}  {x1:.0f}, {y1:.0f} to {x2:.0f}, {y2:.0f}")
    if entry.get("detections") == []:
        typer.echo("  nothing of a score that is high enough")
    for each in entry.get("areas", ()):
        typer.echo(f"  {_share(each['share'])}  {each['class']}")
    for file in ("drawn", "label_map"):
        if file in entry:
            typer.echo(f"  wrote   {entry[file]}")


def _share(value: float | None) -> str:
    return "     –" if value is None else f"{value:6.1%}"
