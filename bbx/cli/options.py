"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from bbx.errors import UsageError, did_you_mean
from bbx.types import PRECISIONS, Precision, Task

DEFAULT_OUT = Path("artifacts")


class HeadName(StrEnum):
    """`--head`."""

    LINEAR = "linear"
    MLP = "mlp"
    NONE = "none"


class InputName(StrEnum):
    """`--input`."""

    FLOAT32 = "float32"
    UINT8 = "uint8"


class ExporterName(StrEnum):
    """`--exporter`."""

    AUTO = "auto"
    DYNAMO = "dynamo"
    TORCHSCRIPT = "torchscript"


Out = Annotated[Path, typer.Option("-o", "--out", help="A folder, or the path of the result.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show warnings only while working.")]
Force = Annotated[bool, typer.Option("--force", help="Make it again, whatever is on disk.")]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Typed graph in FP16.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Typed graph in BF16.")]

Head = Annotated[HeadName, typer.Option(help="linear; mlp; or none, which gives pooled features.")]
NumClasses = Annotated[int | None, typer.Option(help="Classes of the head; by default the model's own.")]
ImageSize = Annotated[int | None, typer.Option(help="Side of the square input in pixels.")]
Weights = Annotated[
    str, typer.Option(help="auto (pretrained where they can be had), pretrained, random, or a file.")
]
Seed = Annotated[int, typer.Option(help="Seed of random weights.")]
Input = Annotated[
    InputName, typer.Option("--input", help="float32 NCHW, or uint8 NHWC with normalisation in the graph.")
]
Batch = Annotated[int | None, typer.Option(help="A fixed batch size; dynamic by default.")]
DynamicSize = Annotated[bool, typer.Option("--dynamic-size", help="Height and width are dynamic too (ONNX).")]
Opset = Annotated[int | None, typer.Option(help="ONNX opset; by default the exporter's choice.")]
Exporter = Annotated[ExporterName, typer.Option(help="Which of torch's ONNX exporters.")]


def precision_from(**flags: bool) -> Precision:
    """The precision that one of the flags asks for; FP32 where none is set.

    Raises:
        UsageError: more than one is set.
    """
    wanted: list[Any] = [name for name, is_set in flags.items() if is_set]
    if len(wanted) > 1:
        raise UsageError(f"--{wanted[0]} and --{wanted[1]} do not go together.", hint="Leave one out.")
    precision: Precision = wanted[0] if wanted else "fp32"
    return precision


def precision_named(name: str) -> Precision:
    """The precision of this name.

    Raises:
        UsageError: there is no such precision.
    """
    for precision in PRECISIONS:
        if precision == name:
            return precision
    raise UsageError(f"There is no precision {name!r}.", hint=did_you_mean(name, PRECISIONS))


def task_named(name: str | None) -> Task | None:
    """The task of this name; None for None.

    Raises:
        UsageError: there is no such task.
    """
    known: tuple[Task, ...] = get_args(Task)
    for task in known:
        if task == name:
            return task
    if name is not None:
        raise UsageError(f"There is no task {name!r}.", hint=did_you_mean(name, known))
    return None


MODEL_OPTIONS = ("head", "num_classes", "image_size", "weights", "seed", "input_kind")
GRAPH_OPTIONS = ("batch", "dynamic_size", "opset", "exporter")


def chosen(parameters: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Of a command's parameters (`locals()`), the named ones as `bbx.api` takes them.

    Enumerations become their values, and `input_kind`, which must not hide a builtin, becomes `input`.
    """
    return {
        name.removesuffix("_kind"): str(value) if isinstance(value := parameters[name], StrEnum) else value
        for name in names
    }
