"""`bbx bisect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bbx.cli import options as opt
from bbx.cli.export import parity_text
from bbx.cli.output import format_bytes, print_json, print_table, reporting
from bbx.cli.parity import Images


@opt.with_options("model")
def bisect(
    artifact: Annotated[Path, typer.Argument(help="A quantised (Q/DQ), FP16 or BF16 ONNX graph.")],
    *,
    options: dict[str, Any],
    against: Annotated[
        str | None,
        typer.Option(help="The reference: a model or an FP32 graph. Default: the graph it was made from."),
    ] = None,
    images: Images = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest relative L2, or share of detections. Default: the precision's."),
    ] = None,
    evaluations: Annotated[int | None, typer.Option(help="Graphs that are run at most. Default: 64.")] = None,
    out: opt.Out = opt.DEFAULT_OUT,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Find the nodes that break a graph's parity, and write it with those nodes in FP32."""
    from bbx import verify_api

    with reporting(quiet=quiet) as listener:
        document = verify_api.bisect(
            artifact,
            against=against,
            images=images,
            tolerance=tolerance,
            evaluations=evaluations,
            out=out,
            listener=listener,
            **options,
        )
    if as_json:
        print_json(document)
    elif document["verdict"] == "nothing_to_find":
        typer.echo(
            f"Nothing to find: {document['subject']} agrees with {document['against']}.\n"
            f"parity    {parity_text(document['parity'])}"
        )
    else:
        print_finding(document)


def print_finding(document: dict[str, Any]) -> None:
    """The nodes with their distances, and the repaired graph."""
    count, total = len(document["nodes"]), document["low_nodes"]
    typer.echo(
        f"{count} of {total} nodes in fewer bits break parity, found in {document['evaluations']} evaluations"
    )
    rows = [
        [
            node["name"],
            node["op_type"],
            " ".join(node["precisions"]),
            _distance(node["distance_with"]),
            _distance(node["distance_without"]) if node["needed"] else "not tried",
        ]
        for node in document["nodes"]
    ]
    print_table("", ["node", "operator", "was", "in FP32", "left as it was"], rows, right=3)
    control = document["control"]
    lines = [
        f"control   as it is {_distance(control['as_it_is'])}, "
        f"all in FP32 {_distance(control['all_in_fp32'])}",
        f"repaired  {document['artifact']}  ({format_bytes(document['bytes'])}, {document['precision']})",
        f"parity    {parity_text(document['parity'])}",
    ]
    if not document["minimal"]:
        lines.append("note      The evaluations were spent before every node was seen to be needed.")
    typer.echo("\n".join(lines))


def _distance(value: float | None) -> str:
    return "∞" if value is None else f"{value:.2e}"
