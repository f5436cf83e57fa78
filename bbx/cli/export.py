"""`bbx export`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from bbx.cli import options as opt
from bbx.cli.output import format_bytes, print_json, reporting


class FormatName(StrEnum):
    """`--format`."""

    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"
    PT2 = "pt2"


@opt.with_options("model", "graph")
def export(
    model: Annotated[
        str,
        typer.Argument(help=f"{opt.MODEL} to retype."),
    ],
    *,
    options: dict[str, Any],
    format: Annotated[FormatName, typer.Option("-f", "--format", help="What to make.")] = FormatName.ONNX,
    fp16: opt.Fp16 = False,
    bf16: opt.Bf16 = False,
    half_io: Annotated[
        bool, typer.Option("--half-io", help="A typed graph takes and gives its own type, not FP32.")
    ] = False,
    out: opt.Out = opt.DEFAULT_OUT,
    force: opt.Force = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Export a model and prove that the artefact computes what the module computes."""
    precision = opt.precision_from(fp16=fp16, bf16=bf16)
    from bbx import api

    with reporting(quiet=quiet) as listener:
        document = api.export(
            model,
            format=format.value,
            precision=precision,
            out=out,
            half_io=half_io,
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
    parity = document["parity"]
    size, seconds = format_bytes(document["bytes"]), document["seconds"]["total"]
    state = "already there, unchanged" if document["reused"] else f"made in {seconds:.1f} s"
    lines = [
        f"{document['artifact']}  ({size}, {state})",
        f"weights   {weights_text(document['weights'])}",
        f"inputs    {tensors_text(document['inputs'])}",
        f"outputs   {tensors_text(document['outputs'])}",
        f"parity    {parity_text(parity)}",
    ]
    if document.get("kept"):
        lines.append(f"in FP32   {len(document['kept'])} nodes: {_kinds(document['kept'])}")
    lines += [f"note      {note}" for note in document.get("notes", ())]
    return "\n".join(lines)


def _kinds(kept: list[dict[str, Any]]) -> str:
    kinds = sorted({node["op_type"] for node in kept})
    return ", ".join(kinds[:8]) + (", …" if len(kinds) > 8 else "")


def weights_text(weights: Any) -> str:
    """Where the weights came from, in words."""
    return (
        f"{weights['path']} (sha256 {weights['sha256'][:12]})" if isinstance(weights, dict) else str(weights)
    )


def tensors_text(specs: list[dict[str, Any]]) -> str:
    """Names, dtypes and shapes; `?` where a dimension is dynamic."""
    shapes = ["×".join("?" if size is None else str(size) for size in spec["shape"]) for spec in specs]
    return ", ".join(
        f"{spec['name']} {spec['dtype']} {shape}" for spec, shape in zip(specs, shapes, strict=True)
    )


def parity_text(parity: dict[str, Any]) -> str:
    """The verdict and the worst distance behind it, or the first reason."""
    if parity["verdict"] != "pass":
        return f"{parity['verdict']}: {parity['reasons'][0]}"
    if "detections" in parity["cases"][0]:
        return _detections_text(parity)
    found = [distance for case in parity["cases"] for distance in case["outputs"].values()]
    worst = max(distance["rel_l2"] for distance in found)
    cosine = min(distance["cosine"] for distance in found)
    return (
        f"pass against {parity['against']}: relative L2 at most {worst:.1e}, cosine at least {cosine:.6f} "
        f"in {len(parity['cases'])} cases"
    )


def _detections_text(parity: dict[str, Any]) -> str:
    """How many detections have a partner, and how far the partners are from one another."""
    found = [case["detections"] for case in parity["cases"] if "detections" in case]
    heads = [case for case in parity["cases"] if "detections" not in case]
    matched, missing, extra = (sum(each[name] for each in found) for name in ("matched", "missing", "extra"))
    overlaps = [each["worst_iou"] for each in found if each["worst_iou"] is not None]
    scores = [each["worst_score"] for each in found if each["worst_score"] is not None]
    counted = (
        f"{matched} of {matched + missing} detections matched, {extra} extra; "
        f"worst partners: IoU {min(overlaps):.4f}, scores {max(scores):.1e} apart"
    )
    if heads:
        worst = max(distance["rel_l2"] for case in heads for distance in case["outputs"].values())
        return f"pass against {parity['against']}: relative L2 at most {worst:.1e}; {counted}"
    return f"pass against {parity['against']}: {counted}"
