"""`bbx eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bbx.cli import options as opt
from bbx.cli.output import print_json, print_table, reporting
from bbx.errors import CheckFailed

_MOST_CLASSES = 20


@opt.with_options("model")
def evaluate(
    artifacts: Annotated[
        list[str],
        typer.Argument(metavar="ARTIFACT...", help="Checkpoints of `bbx train`, artefacts or models."),
    ],
    *,
    options: dict[str, Any],
    data: Annotated[
        str, typer.Option(help="Class folders, a COCO file, images/ and masks/, or torchvision:NAME.")
    ],
    split: Annotated[str | None, typer.Option(help="train, val or test. Default: test, else val.")] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="A file: the network's classes as the data calls them, one a line, in its order."),
    ] = None,
    runtime: Annotated[
        list[str] | None, typer.Option(help="eager, torchscript, ort-cpu, …; repeat it. Default: what fits.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 8,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads inside an operation.")] = None,
    max_drop: Annotated[
        opt.Share | None,
        typer.Option(
            parser=opt.parse_share,
            metavar="SHARE",
            help="Fail where an artefact is worse than the first by more, such as 0.5%.",
        ),
    ] = None,
    bootstrap_seed: Annotated[int, typer.Option(min=0, help="Seed of the samples behind intervals.")] = 0,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load engines and programs that bbx did not make here.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A folder for the report and confusion matrices.")
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Judge models and artefacts side by side on the same labelled images."""
    from bbx import evaluate_api

    with reporting(quiet=quiet) as listener:
        try:
            document = evaluate_api.evaluate(
                artifacts,
                data,
                split=split,
                classes=classes,
                runtimes=runtime or (),
                batch=batch,
                threads=threads,
                max_drop=None if max_drop is None else max_drop.value,
                bootstrap_seed=bootstrap_seed,
                trust=trust,
                out=out,
                listener=listener,
                **options,
            )
        except CheckFailed as error:
            if error.document is not None and not as_json:
                print_evaluation(error.document)
            raise
    if as_json:
        print_json(document)
    else:
        print_evaluation(document)


def print_evaluation(document: dict[str, Any]) -> None:
    """One row an artefact, the classes where they are few, and what was judged by."""
    results, metric = document["results"], document["metric"]
    # Outlines and keypoints by the size of objects stand in the document: the table would be too wide.
    names = [name for name in results[0]["metrics"] if name.count("_") < 2]
    compared = len(results) > 1
    columns = ["artefact", "runtime", "precision", *names]
    columns += [f"{metric} to the first", "flips"] if compared else []
    rows = [
        [each["artifact"], each["runtime"], each["precision"]]
        + [_share(each["metrics"].get(name)) for name in names]
        + ([_difference(each["difference"], metric), _flips(each["flips"])] if compared else [])
        + [f"{each['images_per_s']:.1f}"]
        for each in results
    ]
    print_table("", [*columns, "images/s"], rows, right=3)
    if len(results[0]["per_class"]) <= _MOST_CLASSES:
        typer.echo()
        _print_classes(results)
    data = document["data"]
    part = f", {data['split']}" if data["split"] else ""
    left_out = f"; {len(data['skipped'])} left out" if data["skipped"] else ""
    typer.echo(
        f"\n{data['images']} images of {data['source']}{part}, {len(data['classes'])} classes{left_out}."
    )
    if compared:
        typer.echo(
            "In brackets the 95 % interval of the difference. Flips: right → wrong, wrong → right, wrong → "
            "wrong otherwise."
        )
    for file in document.get("files", ()):
        typer.echo(f"wrote     {file}")


def _print_classes(results: list[dict[str, Any]]) -> None:
    """One row a class, one column an artefact."""
    *_, last = (key for key in results[0]["per_class"][0] if key not in ("number", "class"))
    measure = "AP" if "AP" in results[0]["per_class"][0] else last
    found = [{row["number"]: row for row in each["per_class"]} for each in results]
    rows = [
        [row["class"], *(_share(each.get(row["number"], {}).get(measure)) for each in found)]
        for row in results[0]["per_class"]
    ]
    columns = [f"{Path(each['artifact']).name} {each['runtime']}" for each in results]
    print_table("", [f"{measure} of", *columns], rows)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _difference(difference: dict[str, Any] | None, metric: str) -> str:
    if difference is None or metric not in difference:
        return "–"
    found = difference[metric]
    interval = "" if found["ci95"] is None else " [{:+.2%}, {:+.2%}]".format(*found["ci95"])
    return f"{found['value']:+.2%}{interval}"


def _flips(flips: dict[str, int] | None) -> str:
    if flips is None:
        return "–"
    return f"{flips['right_to_wrong']}, {flips['wrong_to_right']}, {flips['wrong_to_wrong']} of {flips['of']}"
