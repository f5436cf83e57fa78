"""`bbx build-trt`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from bbx.cli import options as opt
from bbx.cli.export import parity_text, weights_text
from bbx.cli.output import format_bytes, print_json, reporting


class FlavorName(StrEnum):
    """`--flavor`."""

    AUTO = "auto"
    TENSORRT = "tensorrt"
    RTX = "rtx"


@opt.with_options("model", "graph", "calibration")
def build_trt(
    model: Annotated[
        str,
        typer.Argument(help=f"{opt.MODEL}."),
    ],
    *,
    options: dict[str, Any],
    fp16: opt.Fp16 = False,
    bf16: opt.Bf16 = False,
    int8: Annotated[bool, typer.Option("--int8", help="INT8; takes --fp16 or --bf16 for the rest.")] = False,
    fp8: Annotated[bool, typer.Option("--fp8", help="FP8 (E4M3), from sm_89 on; likewise.")] = False,
    flavor: Annotated[FlavorName, typer.Option(help="Which TensorRT.")] = FlavorName.AUTO,
    target: Annotated[
        list[str] | None, typer.Option(help="GPU such as sm_86; repeat it. Default: this GPU, or all.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="min,opt,max: batches (1,4,8) or shapes (1x3x224x224,…); repeat it for more."),
    ] = None,
    workspace_mib: Annotated[int | None, typer.Option(min=1, help="Limit of scratch memory, in MiB.")] = None,
    refit: Annotated[bool, typer.Option("--refit", help="Weights can be exchanged in the engine.")] = False,
    strip: Annotated[bool, typer.Option("--strip", help="Write the engine without its weights.")] = False,
    tf32: Annotated[bool, typer.Option("--tf32", help="FP32 products may use TF32.")] = False,
    out: opt.Out = opt.DEFAULT_OUT,
    force: opt.Force = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Compile a model to a TensorRT engine and prove which precision the engine contains."""
    eight = opt.precision_from(int8=int8, fp8=fp8)
    precision = opt.precision_from(fp16=fp16, bf16=bf16) if eight == "fp32" else eight
    rest = opt.rest_from(precision, fp16=fp16, bf16=bf16)
    from bbx import api

    with reporting(quiet=quiet) as listener:
        document = api.build_engine(
            model,
            precision=precision,
            rest=rest,
            flavor=flavor.value,
            targets=target or (),
            profiles=profile or (),
            workspace_mib=workspace_mib,
            refit=refit,
            strip=strip,
            tf32=tf32,
            out=out,
            force=force,
            listener=listener,
            **options,
        )
    if as_json:
        print_json(document)
    else:
        typer.echo(summary(document))


def summary(document: dict[str, Any]) -> str:
    """The document in a few lines."""
    precision, seconds = document["precision"], document["seconds"]["total"]
    state = "already there, unchanged" if document["reused"] else f"made in {seconds:.1f} s"
    achieved = ", ".join(
        f"{dtype}: {found['layers']} layers, {format_bytes(found['weight_bytes'])} of weights"
        for dtype, found in precision["achieved"].items()
    )
    lines = [
        f"{document['engine']}  ({format_bytes(document['bytes'])}, {state})",
        f"built by  {document['flavor']} {document['version']} for {' '.join(document['targets'])}",
        f"weights   {weights_text(document['weights'])}",
        f"precision {precision['verdict']}: {precision['requested']} was asked for; {achieved}",
        f"evidence  {precision['evidence']}",
        f"parity    {parity_text(document['parity'])}",
    ]
    return "\n".join(lines + [f"note      {note}" for note in document["notes"]])
