"""From the options of a verb to the graphs it needs: which steps, in which order, under which command.

The verbs in `bbx.api` differ in what they end with; what leads to a graph in the precision that was asked
for is the same for all of them, and is here.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bbx import process
from bbx.calibration.methods import REFINE_STEPS
from bbx.errors import UsageError, did_you_mean
from bbx.models.registry import check_options, lowered, task_of
from bbx.models.spec import ModelSpec, size_text
from bbx.models.trained import named_spec
from bbx.types import Precision

if TYPE_CHECKING:
    from bbx.pipeline import ExportStep, Made, QuantizeStep, Step

DEFAULT_OUT = Path("artifacts")

Rest = Literal["fp32", "fp16", "bf16"]
"""Precision of what is not in eight bits."""

SPEC_DEFAULTS = {field.name: field.default for field in fields(ModelSpec) if field.name != "name"}
GRAPH_DEFAULTS: dict[str, Any] = {"batch": None, "dynamic_size": False, "opset": None, "exporter": "auto"}
CALIBRATION_DEFAULTS: dict[str, Any] = {
    "calib": None,
    "calib_images": 512,
    "calib_batch": 8,
    "calib_seed": 0,
    "eval_data": None,
    "allow_random": False,
    "method": "auto",
    "max_drop": None,
    "refine": (),
    "keep": (),
    "scales": None,
}
"""Options of `bbx.pipeline.QuantizeStep`, by the names that the verbs have for them."""


@dataclass(frozen=True, slots=True)
class Maker:
    """How steps are carried out for one call."""

    command: str
    out: Path
    force: bool
    listener: process.Listener

    def make(self, step: Step, *, last: bool) -> Made:
        """The artefact of a step; one that is only on the way goes into the folder of the last."""
        from bbx.pipeline import ensure

        out = self.out
        if not last and out.suffix and not out.is_dir():
            out = out.parent
        return ensure(step, out, force=self.force, listener=self.listener)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The graph that a verb needs.

    Attributes:
        model: a preset, `torchvision:NAME`, `timm:NAME`, `package.module:factory` or a `file.onnx`.
        precision: of the layers with weights.
        rest: of everything else, where that is INT8 or FP8.
        half_io: inputs and outputs take the 16-bit type too.
        lowering: of a detector, where none was asked for.
        last: it is what the caller wants, and not only on the way to an engine.
    """

    model: str
    precision: Precision
    rest: Rest = "fp32"
    half_io: bool = False
    lowering: Literal["static", "onnx"] = "static"
    last: bool = False

    @property
    def eight_bit(self) -> Literal["int8", "fp8"] | None:
        """The eight-bit type of the layers with weights."""
        return self.precision if self.precision in ("int8", "fp8") else None

    @property
    def half(self) -> Literal["fp16", "bf16"] | None:
        """The 16-bit type that tensors are to have."""
        if self.eight_bit is not None:
            return self.rest if self.rest != "fp32" else None
        return self.precision if self.precision in ("fp16", "bf16") else None


def command_line(verb: str, subject: str, options: dict[str, Any], defaults: dict[str, Any]) -> str:
    """The command that asks for `options`; those at their default are left out."""
    words = ["bbx", verb, subject]
    for name, value in options.items():
        # An option that is given several times is called by the plural here, where it has one.
        several = isinstance(value, tuple | list)
        flag = "--" + (name.removesuffix("s") if several else name).replace("_", "-")
        if name == "image_size" and isinstance(value, int | tuple | list):
            words += ["--image-size", size_text(value if isinstance(value, int) else (value[0], value[1]))]
        elif name in ("precision", "rest"):
            words += [] if value == "fp32" else [f"--{value}"]
        elif name == "refine":
            words += _refine_words(tuple(value))
        elif name == "max_drop" and value is not None:
            words += [flag, f"{100 * value:g}%"]
        elif value is True:
            words.append(flag)
        elif several:
            words += [word for item in value for word in (flag, str(item))]
        elif value != defaults.get(name):
            words += [flag, str(value)]
    return shlex.join(words)


def _refine_words(steps: tuple[str, ...]) -> list[str]:
    if not steps:
        return []
    return ["--refine"] if steps == REFINE_STEPS else ["--refine", "--refine-steps", ",".join(steps)]


def is_onnx_file(model: str) -> bool:
    """Whether a model is named by the path of an ONNX graph."""
    return model.endswith(".onnx")


def export_step(
    model: str,
    format: Literal["onnx", "torchscript", "pt2"],
    maker: Maker,
    options: dict[str, Any],
    lowering: Literal["static", "onnx"] = "static",
) -> ExportStep:
    """A validated step; a wrong name fails here, before a child process is started.

    Args:
        options: of the model and of the graph.
        lowering: of a detector, where none was asked for.
    """
    from bbx.pipeline import ExportStep

    of_spec = {name: value for name, value in options.items() if name not in GRAPH_DEFAULTS}
    of_graph = {name: value for name, value in options.items() if name in GRAPH_DEFAULTS}
    spec = named_spec(model, of_spec)
    task = task_of(check_options(spec))
    if of_graph.get("dynamic_size") and task != "classification":
        raise UsageError(
            f"{model} has one image size an artefact: --dynamic-size belongs to classifiers.",
            hint="Name the size: --image-size HEIGHTxWIDTH",
        )
    return ExportStep(maker.command, lowered(spec, lowering), format, **of_graph)


def graph(wanted: Wanted, maker: Maker, options: dict[str, Any]) -> Made | None:
    """The ONNX graph of a model in a precision, or None where it is the file that names the model.

    Args:
        options: of the model, of the graph and of calibration.

    Raises:
        UsageError: the precision cannot be had from this model, or an option comes too late for a file.
        BbxError: as the steps.
    """
    from bbx.pipeline import TypedStep

    calibration = {name: value for name, value in options.items() if name in CALIBRATION_DEFAULTS}
    options = {name: value for name, value in options.items() if name not in CALIBRATION_DEFAULTS}
    _check(wanted, calibration)
    made = None
    source = Path(wanted.model)
    quantising = wanted.eight_bit is not None and not _is_finished(wanted, calibration)
    if quantising:
        quantize_step(wanted, source, maker, calibration)  # which refuses wrong options before any work
    if is_onnx_file(wanted.model):
        _refuse_model_options(wanted.model, options)
    else:
        step = export_step(wanted.model, "onnx", maker, options, wanted.lowering)
        made = maker.make(step, last=wanted.last and not quantising and wanted.half is None)
        source = made.path
    if quantising:
        made = maker.make(
            quantize_step(wanted, source, maker, calibration), last=wanted.last and wanted.half is None
        )
        source = made.path
    if wanted.half is not None:
        made = maker.make(TypedStep(maker.command, source, wanted.half, wanted.half_io), last=wanted.last)
    return made


def quantize_step(wanted: Wanted, source: Path, maker: Maker, calibration: dict[str, Any]) -> QuantizeStep:
    """The step that quantises a graph.

    Raises:
        UsageError: there are no images, or an option is wrong.
    """
    from bbx.calibration.data.options import CalibrationOptions
    from bbx.pipeline import QuantizeStep

    given = CALIBRATION_DEFAULTS | calibration
    for name in ("calib", "eval_data", "scales"):
        if given[name] is not None and not Path(given[name]).exists():
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} {given[name]}: there is no such file or folder.")
    if given["calib"] is None and not given["allow_random"]:
        raise UsageError(
            f"--{wanted.precision} needs images to calibrate on, and none were given.",
            hint="Type --calib FOLDER with images like those that the model will meet.",
        )
    assert wanted.eight_bit is not None  # the caller asked
    return QuantizeStep(
        maker.command,
        source,
        wanted.eight_bit,
        CalibrationOptions(
            source=None if given["calib"] is None else str(given["calib"]),
            images=given["calib_images"],
            seed=given["calib_seed"],
            batch=given["calib_batch"],
            allow_random=given["allow_random"],
            evaluation=None if given["eval_data"] is None else str(given["eval_data"]),
        ),
        method=given["method"],
        max_drop=given["max_drop"],
        refine=tuple(given["refine"]),
        keep=tuple(given["keep"]),
        scales=given["scales"],
    )


def check_types(options: dict[str, Any]) -> None:
    """Refuse what the command line cannot give of calibration's options, and Python can.

    Raises:
        UsageError: says what the option takes.
    """
    given = CALIBRATION_DEFAULTS | options
    for name in ("calib", "eval_data", "scales"):
        if not isinstance(given[name], str | Path | None):
            raise UsageError(
                f"{name} is a path here, and {type(given[name]).__name__} was given.",
                hint="bbx.calibration.data.dataset.calibration_set takes images that are in memory.",
            )
    for name in ("keep", "refine"):
        if isinstance(given[name], str) or not isinstance(given[name], Collection):
            raise UsageError(f"{name} is a tuple of names such as ('bias',), and {given[name]!r} was given.")
    if not isinstance(given["max_drop"], int | float | None):
        raise UsageError(f"max_drop is a share such as 0.005, and {given['max_drop']!r} was given.")


def _is_finished(wanted: Wanted, calibration: dict[str, Any]) -> bool:
    """Whether a file is taken as it is: nobody named images to quantise it with."""
    has_images = calibration.get("calib") is not None or calibration.get("allow_random")
    return is_onnx_file(wanted.model) and not has_images


def _check(wanted: Wanted, calibration: dict[str, Any]) -> None:
    if wanted.half_io and wanted.half is None:
        raise UsageError("--half-io belongs to --fp16 or --bf16.")
    given = [n for n, value in calibration.items() if value not in (CALIBRATION_DEFAULTS[n], [])]
    if given and wanted.eight_bit is None:
        flag = "--" + given[0].replace("_", "-")
        raise UsageError(f"{flag} belongs to --int8 or --fp8.", hint="Add one of them, or leave it out.")
    if given and _is_finished(wanted, calibration):
        flag = "--" + given[0].replace("_", "-")
        raise UsageError(f"{flag} needs images to calibrate on.", hint="Type --calib FOLDER.")


def _refuse_model_options(model: str, options: dict[str, Any]) -> None:
    known = SPEC_DEFAULTS | GRAPH_DEFAULTS
    for name in options:
        if name not in known:
            nearest = did_you_mean(name, known | CALIBRATION_DEFAULTS)
            raise UsageError(f"There is no option {name!r}.", hint=nearest)
    changed = [n for n, v in options.items() if v != known[n]]
    if changed:
        flag = "--" + changed[0].replace("_", "-")
        raise UsageError(f"{model} is a graph already, so {flag} comes too late.", hint="Leave it out.")
