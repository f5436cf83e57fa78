"""`bbx bench`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from bbx.cli import options as opt
from bbx.cli.output import print_json
from bbx.errors import BbxError, CheckFailed


class ProfileName(StrEnum):
    """`--profile`."""

    QUICK = "quick"
    REPORT = "report"
    LONG = "long"


@opt.with_options("model")
def bench(
    subjects: Annotated[
        list[str] | None, typer.Argument(help="Models as for `bbx export`, or artefact files.")
    ] = None,
    *,
    options: dict[str, Any],
    everything: Annotated[bool, typer.Option("--all", help="Every preset.")] = False,
    runtime: Annotated[
        list[str] | None, typer.Option(help="eager, compile, torchscript, pt2, ort-cpu, …; repeat it.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, fp16, bf16; repeat it. Default: what the device is for.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Batch size; repeat it. Default: 1.")] = None,
    profile: Annotated[ProfileName, typer.Option(help="How long each row is measured.")] = ProfileName.QUICK,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads inside an operation.")] = None,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="Use CUDA graphs on the runtimes that have them.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load engines and programs that bbx did not make here.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip rows that are done and unchanged.")] = False,
    out: opt.Out = opt.DEFAULT_OUT,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Measure models or artefacts on the runtimes of this machine, and write a report."""
    from bbx import api
    from bbx.cli.live_table import live_table, print_results

    with live_table(quiet=quiet) as (listener, on_row):
        document = api.bench(
            subjects or (),
            everything=everything,
            runtimes=runtime,
            precisions=[opt.precision_named(name) for name in precision or ()],
            batches=batch or (1,),
            profile=profile.value,
            out=out,
            resume=resume,
            threads=threads,
            cuda_graph=cuda_graph,
            trust=trust,
            listener=listener,
            on_row=on_row,
            **options,
        )
    if as_json:
        print_json(document)
    else:
        print_results(document, out)
    return exit_code(document)


def exit_code(document: dict[str, Any]) -> int:
    """3 when a row's parity failed, 1 when nothing could be measured, else 0: a failed row is a row."""
    rows = document["results"]
    if any(row["verdict"] == "parity_failed" for row in rows):
        return CheckFailed.exit_code
    return 0 if any(row["latency_ns"] for row in rows) else BbxError.exit_code
