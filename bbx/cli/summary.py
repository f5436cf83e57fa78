"""`bbx summary`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bbx.cli import options as opt
from bbx.cli.export import tensors_text
from bbx.cli.output import format_bytes, print_json, print_table, reporting


@opt.with_options("model")
def summary(
    model: Annotated[
        str,
        typer.Argument(help=f"{opt.MODEL}."),
    ],
    *,
    options: dict[str, Any],
    batch: Annotated[int, typer.Option(help="Rows of the input.")] = 1,
    precision: Annotated[
        str | None, typer.Option(help="Of weights and activations: fp32, fp16, bf16, int8 or fp8.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Roofline of this GPU, such as h100-sxm, rtx-4090 or orin-agx.")
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Show layers, shapes, parameters, FLOPs and bytes, and how fast a GPU could be at most."""
    wanted = None if precision is None else opt.precision_named(precision)
    from bbx.costs.summary import summary as count

    with reporting(quiet=quiet) as listener:
        document = count(model, batch=batch, precision=wanted, gpu=gpu, listener=listener, **options)
    if as_json:
        print_json(document)
    else:
        _print(document)


def _print(document: dict[str, Any]) -> None:
    layers = document["layers"]
    shown = [layer for layer in layers if layer["parameters"] or layer["flops"]]
    with_gpu = document["roofline"] is not None
    columns = ["layer", "type", "output", "parameters", "MFLOPs", "activations"]
    columns += ["bound by", "at least"] if with_gpu else []
    print_table("", columns, [_row(layer, with_gpu) for layer in shown], right=3)
    typer.echo(totals_text(document, len(layers) - len(shown)))


def _row(layer: dict[str, Any], with_gpu: bool) -> list[str]:
    shape = layer["output_shape"]
    calls = f" ({layer['calls']} calls)" if layer["calls"] > 1 else ""
    cells = [
        layer["name"] or "(network)",
        layer["type"],
        ("?" if shape is None else "×".join(map(str, shape))) + calls,
        f"{layer['parameters']:,}",
        f"{layer['flops'] / 1e6:,.2f}",
        format_bytes(layer["activation_bytes"]),
    ]
    return [*cells, layer["bound"], _microseconds(layer["seconds_at_least"])] if with_gpu else cells


def totals_text(document: dict[str, Any], others: int) -> str:
    """What stands below the table.

    Args:
        others: layers that it left out.
    """
    totals, precision = document["totals"], document["precision"]
    sizes = ", ".join(f"{name} {format_bytes(size)}" for name, size in totals["parameter_bytes"].items())
    lines = [
        f"and {others} layers without parameters or FLOPs" if others else "",
        f"inputs       {tensors_text(document['inputs'])}",
        f"outputs      {tensors_text(document['outputs'])}",
        f"parameters   {totals['parameters']:,} ({totals['trainable']:,} trainable): {sizes}"
        if document["kind"] == "module"
        else f"parameters   {totals['parameters']:,}: {sizes}",
        f"FLOPs        {totals['flops']:,} (a multiply-add is two)",
        f"activations  {format_bytes(totals['activation_bytes'])} written in {precision}, at most "
        f"{format_bytes(totals['peak_activation_bytes'])} alive at once",
        f"intensity    {totals['intensity']:.1f} FLOPs a byte moved, layer by layer",
    ]
    if document["not_counted"]:
        lines.append(f"not counted  FLOPs of {', '.join(document['not_counted'])}")
    if document["unknown_shapes"]:
        lines.append(f"not known    shapes of {document['unknown_shapes']} tensors, which count for nothing")
    if document["roofline"] is not None:
        lines += _roofline_lines(document["roofline"])
    return "\n".join(lines).lstrip("\n")


def _roofline_lines(roofline: dict[str, Any]) -> list[str]:
    return [
        "",
        f"{roofline['product']}, {roofline['precision']}: {roofline['peak_flops'] / 1e12:,.1f} TFLOP/s, "
        f"{roofline['bandwidth'] / 1e9:,.0f} GB/s, ridge at {roofline['ridge']:.0f} FLOPs a byte",
        f"layer by layer   at least {_microseconds(roofline['seconds_layer_by_layer'])}, "
        f"{roofline['memory_bound_share']:.0%} of it bound by memory",
        f"however fused    at least {_microseconds(roofline['seconds_at_least'])}, "
        f"bound by {roofline['bound']}",
        f"source           {roofline['source']}",
    ]


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} µs" if seconds < 1e-3 else f"{seconds * 1e3:,.2f} ms"
