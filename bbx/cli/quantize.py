"""`bbx quantize`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from bbx.cli import options as opt
from bbx.cli.export import parity_text, weights_text
from bbx.cli.output import format_bytes, print_json, reporting

_SHOWN = 8


@opt.with_options("model", "graph", "calibration")
def quantize(
    model: Annotated[
        str,
        typer.Argument(help=f"{opt.MODEL}."),
    ],
    *,
    options: dict[str, Any],
    int8: Annotated[bool, typer.Option("--int8", help="INT8; the default.")] = False,
    fp8: Annotated[bool, typer.Option("--fp8", help="FP8 (E4M3), for GPUs from sm_89 on.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="FP16 for what is not quantised.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="BF16 for what is not quantised.")] = False,
    worth: Annotated[
        bool, typer.Option("--worth", help="Measure it against FP32 here, and say whether it is worth it.")
    ] = False,
    out: opt.Out = opt.DEFAULT_OUT,
    force: opt.Force = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Calibrate a model on images and write an INT8 or FP8 graph, with its record and its accuracy."""
    opt.precision_from(int8=int8, fp8=fp8)
    precision: Literal["int8", "fp8"] = "fp8" if fp8 else "int8"
    from bbx import api

    with reporting(quiet=quiet) as listener:
        document = api.quantize(
            model,
            precision=precision,
            rest=opt.rest_from(precision, fp16=fp16, bf16=bf16),
            worth=worth,
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
    seconds = document["seconds"]["total"]
    state = "already there, unchanged" if document["reused"] else f"made in {seconds:.1f} s"
    calibration, accuracy = document["calibration"], document["accuracy"]
    images = "noise" if calibration["random"] else "images"
    methods = ", ".join(f"{group}: {method}" for group, method in calibration["methods"].items())
    score = next(accuracy[name] for name in ("int8", "fp8") if name in accuracy)
    lines = [
        f"{document['artifact']}  ({format_bytes(document['bytes'])}, {state})",
        f"weights   {weights_text(document['weights'])}",
        f"data      {calibration['images']} {images}, {calibration['held_out']} held out "
        f"({calibration['record']})",
        f"scales    {methods}",
        *(
            f"refined   {gain['step']}: relative L2 {gain['before']:.2e} to {gain['after']:.2e} on held-out "
            f"images{'' if gain['kept'] else ', undone'}"
            for gain in document["refinement"]
        ),
        f"layers    {len(document['quantized_nodes'])} quantised, {len(document['kept_nodes'])} kept",
        *(f"  kept    {node['name']}: {node['reason']}" for node in document["kept_nodes"][:_SHOWN]),
        *([f"          and {more} more"] if (more := len(document["kept_nodes"]) - _SHOWN) > 0 else []),
        *(
            f"  cost    {layer['name']}: {format_bytes(layer['cost_bytes'])} more, "
            f"lowers the error by {layer['bought']:.1%}"
            for layer in accuracy["put_back"]
        ),
        f"accuracy  {accuracy['metric']} {score:.2%} (FP32: {accuracy['fp32']:.2%}) on {accuracy['of']}, "
        f"a drop of {accuracy['drop']:.2%}",
        f"error     relative L2 {document['error']['rel_l2']:.2e} on held-out images",
        f"parity    {parity_text(document['parity'])}",
    ]
    if "worth" in document:
        found = document["worth"]
        lines.append(f"worth it  {found['verdict']} on {found['runtime']}: {found['reason']}")
    return "\n".join(lines)
