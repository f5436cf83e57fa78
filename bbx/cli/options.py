"""Options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import typer

from bbx.errors import UsageError, did_you_mean
from bbx.types import PRECISIONS, Precision, Task

DEFAULT_OUT = Path("artifacts")

R = TypeVar("R")


class HeadName(StrEnum):
    """`--head`."""

    LINEAR = "linear"
    MLP = "mlp"
    NONE = "none"


class InputName(StrEnum):
    """`--input`."""

    FLOAT32 = "float32"
    UINT8 = "uint8"


class LoweringName(StrEnum):
    """`--lowering`."""

    AUTO = "auto"
    STATIC = "static"
    ONNX = "onnx"


class ExporterName(StrEnum):
    """`--exporter`."""

    AUTO = "auto"
    DYNAMO = "dynamo"
    TORCHSCRIPT = "torchscript"


MODEL = (
    "A preset, torchvision:NAME, timm:NAME, package.module:factory, a checkpoint of `bbx train`, "
    "or a file.onnx"
)
"""Help of an argument that names a model; without a full stop."""

Out = Annotated[Path, typer.Option("-o", "--out", help="A folder, or the path of the result.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show warnings only while working.")]
Force = Annotated[bool, typer.Option("--force", help="Make it again, whatever is on disk.")]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Typed graph in FP16.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Typed graph in BF16.")]


@dataclass(frozen=True, slots=True)
class ImageSize:
    """What `--image-size` was given: the side of a square, or height and width."""

    value: int | tuple[int, int]


@dataclass(frozen=True, slots=True)
class Share:
    """What `--max-drop` was given, 0..1."""

    value: float


def parse_size(text: str) -> ImageSize:
    """`224` as one side of a square, `480x640` as height and width.

    Raises:
        typer.BadParameter: it is neither.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise typer.BadParameter(f"{text!r} is no size. Type one side (224), or HEIGHTxWIDTH (480x640).")
    first, *rest = map(int, sides)
    return ImageSize((first, rest[0]) if rest else first)


def _model_options(  # noqa: PLR0917 - a group of options, never called
    head: Annotated[
        HeadName, typer.Option(help="Classifiers: linear; mlp; or none, which gives pooled features.")
    ] = HeadName.LINEAR,
    num_classes: Annotated[
        int | None,
        typer.Option(help="Classes of the head, the background included; by default the model's own."),
    ] = None,
    image_size: Annotated[
        ImageSize | None,
        typer.Option(parser=parse_size, metavar="SIZE", help="Side in pixels, or HEIGHTxWIDTH."),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(help="auto (pretrained where they can be had), pretrained, random, or a file."),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of random weights.")] = 0,
    input: Annotated[
        InputName, typer.Option(help="float32 NCHW, or uint8 NHWC with normalisation in the graph.")
    ] = InputName.FLOAT32,
    backbone: Annotated[
        str | None, typer.Option(help="A preset or timm:NAME in the place of a pyramid's own backbone.")
    ] = None,
    score_threshold: Annotated[
        float | None, typer.Option(help="Detectors: boxes of a lower score are not reported.")
    ] = None,
    iou_threshold: Annotated[
        float | None, typer.Option(help="Detectors: overlap above which one of two boxes goes.")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(help="Detectors: boxes that enter suppression, at most.")
    ] = None,
    detections: Annotated[int | None, typer.Option(help="Detectors: rows of the outputs.")] = None,
    num_keypoints: Annotated[
        int | None, typer.Option(help="Detectors of keypoints: how many an object has.")
    ] = None,
    lowering: Annotated[
        LoweringName,
        typer.Option(help="Detectors: ordinary operators, ONNX's own, or what suits the target."),
    ] = LoweringName.AUTO,
    argmax: Annotated[
        bool, typer.Option("--argmax", help="Segmenters: give the label of each pixel, not the logits.")
    ] = False,
) -> None:
    """Options of `bbx.models.spec.ModelSpec`."""


def _graph_options(
    batch: Annotated[int | None, typer.Option(help="A fixed batch size; dynamic by default.")] = None,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Height and width are dynamic too (ONNX, classifiers).")
    ] = False,
    opset: Annotated[int | None, typer.Option(help="ONNX opset; by default the exporter's choice.")] = None,
    exporter: Annotated[
        ExporterName, typer.Option(help="Which of torch's ONNX exporters.")
    ] = ExporterName.AUTO,
) -> None:
    """Options of `bbx.pipeline.ExportStep`."""


def parse_share(text: str) -> Share:
    """`0.5%` and `0.005` as the same share.

    Raises:
        typer.BadParameter: it is neither.
    """
    number = text.strip()
    try:
        value = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no share. Type it like 0.5%.") from None
    return Share(value)


def _calibration_options(  # noqa: PLR0917 - a group of options, never called
    calib: Annotated[
        str | None,
        typer.Option(help="Images to calibrate on: a folder, a list, .npy, .npz, a COCO file or a record."),
    ] = None,
    calib_images: Annotated[int, typer.Option(help="Images used, at most.")] = 512,
    calib_batch: Annotated[int, typer.Option(help="Images a run while calibrating.")] = 8,
    calib_seed: Annotated[int, typer.Option(help="Seed of the sample of images.")] = 0,
    eval_data: Annotated[
        str | None, typer.Option(help="Images to judge the result by; default: some of --calib, held out.")
    ] = None,
    allow_random: Annotated[
        bool, typer.Option("--allow-random", help="Calibrate on noise; the artefact says so for ever.")
    ] = False,
    method: Annotated[
        str, typer.Option(help="auto, max, percentile:99.99, entropy or mse; see docs/quantize.md.")
    ] = "auto",
    max_drop: Annotated[
        Share | None,
        typer.Option(parser=parse_share, metavar="SHARE", help="Accuracy that may be lost, like 0.5%."),
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Equalise, round anew and correct biases; see docs/refine.md.")
    ] = False,
    refine_steps: Annotated[
        str, typer.Option(help="With --refine: some of equalise, rounding, bias.")
    ] = "equalise,rounding,bias",
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of names of layers to leave in floating point; repeat it."),
    ] = None,
    scales: Annotated[
        Path | None, typer.Option(help="A file of scales to use: JSON, or a TensorRT calibration cache.")
    ] = None,
) -> None:
    """Options of `bbx.pipeline.QuantizeStep`."""


_GROUPS: dict[str, Callable[..., None]] = {
    "model": _model_options,
    "graph": _graph_options,
    "calibration": _calibration_options,
}


def with_options(
    *groups: Literal["model", "graph", "calibration"] | Callable[..., None],
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command the options of these groups, or of functions like them, before those from `out` on.

    The command takes them as `options`: a dictionary as `bbx.api` wants it, enumerations as their values.
    """

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        shared = [p for each in groups for p in _parameters(_GROUPS[each] if isinstance(each, str) else each)]
        own = [parameter for parameter in _parameters(command) if parameter.name != "options"]
        split = next((i for i, parameter in enumerate(own) if parameter.name in _LAST), len(own))

        @functools.wraps(command)
        def wrapper(**given: Any) -> R:
            options = {parameter.name: _plain(given.pop(parameter.name)) for parameter in shared}
            if "keep" in options:  # typer has no empty list as a default
                options["keep"] = tuple(options["keep"] or ())
                steps = options.pop("refine_steps").split(",")
                options["refine"] = tuple(step.strip() for step in steps) if options["refine"] else ()
            return command(**given, options=options)

        merged = [*own[:split], *shared, *own[split:]]
        keyword = inspect.Parameter.KEYWORD_ONLY
        signature = inspect.Signature([parameter.replace(kind=keyword) for parameter in merged])
        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in merged}
        del wrapper.__wrapped__  # whose signature typer would read instead
        return wrapper

    return decorate


_LAST = ("resume", "out", "force", "as_json", "quiet")


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())


def _plain(value: Any) -> Any:
    if isinstance(value, ImageSize | Share):
        return value.value
    return str(value) if isinstance(value, StrEnum) else value


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


def rest_from(precision: Precision, *, fp16: bool, bf16: bool) -> Literal["fp32", "fp16", "bf16"]:
    """The precision of what is not quantised, where INT8 or FP8 is; FP32 otherwise.

    Raises:
        UsageError: two are set.
    """
    if precision not in ("int8", "fp8"):
        return "fp32"
    rest = precision_from(fp16=fp16, bf16=bf16)
    return "fp16" if rest == "fp16" else "bf16" if rest == "bf16" else "fp32"


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
