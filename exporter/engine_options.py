"""What an engine is built for: flavour, GPU targets, shape profiles, limits. Nothing heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bbx import lazy
from bbx.errors import UnavailableError, UsageError, did_you_mean
from bbx.runners.gpu import gpus
from bbx.runners.trt_flavor import MODULES, trt_module
from bbx.types import Flavor, TensorSpec

Shape = tuple[int, ...]

DEFAULT_MAX_BATCH = 8
"""Largest batch of the default profile, unless a larger one is asked for."""
_MAX_LEVEL = 5
_FIRST_WITH_FP8 = (8, 9)


@dataclass(frozen=True, slots=True)
class InputRange:
    """The shapes that one input may have: smallest, the one to optimise for, largest."""

    name: str
    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self) -> None:
        shapes = tuple(tuple(shape) for shape in (self.min, self.opt, self.max))
        for attribute, shape in zip(("min", "opt", "max"), shapes, strict=True):
            object.__setattr__(self, attribute, shape)
        ordered = len({len(shape) for shape in shapes}) == 1 and all(
            1 <= low <= best <= high for low, best, high in zip(*shapes, strict=True)
        )
        if not ordered:
            raise UsageError(
                f"The profile of input {self.name!r} is not ordered: min {list(self.min)}, "
                f"opt {list(self.opt)}, max {list(self.max)}.",
                hint="Each size must be positive and must not fall from min to opt to max.",
            )


@dataclass(frozen=True, slots=True)
class ShapeProfile:
    """One optimisation profile: a range for each input with a dynamic shape."""

    inputs: tuple[InputRange, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        names = [entry.name for entry in self.inputs]
        if len(set(names)) != len(names):
            raise UsageError(f"A profile names an input twice: {names}.")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to build an engine.

    Attributes:
        flavor: which TensorRT compiles it.
        targets: GPUs such as `sm_86`; empty for the current GPU's, or, where there is none, every one that
            the flavour can compile this graph for.
        profiles: empty for `default_profile`.
        batch: the batch that the default profile is optimised for.
        workspace_bytes: limit of the engine's scratch memory; None for TensorRT's own.
        refit: weights can be replaced after the build. strip: the plan is written without its weights.
        optimization_level: 0 (fast build) to 5; None for TensorRT's own.
        tf32: let FP32 layers round their inputs to TF32. Off, since that is not the FP32 that was asked for.
    """

    flavor: Flavor
    targets: tuple[str, ...] = ()
    profiles: tuple[ShapeProfile, ...] = ()
    batch: int = 1
    workspace_bytes: int | None = None
    refit: bool = False
    strip: bool = False
    optimization_level: int | None = None
    tf32: bool = False

    def __post_init__(self) -> None:
        if self.flavor not in MODULES:
            raise UsageError(f"There is no flavour {self.flavor!r}.", hint=did_you_mean(self.flavor, MODULES))
        object.__setattr__(self, "targets", tuple(dict.fromkeys(parse_target(t) for t in self.targets)))
        object.__setattr__(self, "profiles", tuple(self.profiles))
        if self.batch < 1:
            raise UsageError(f"The batch must be at least 1, not {self.batch}.")
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise UsageError(f"The workspace limit must be positive, not {self.workspace_bytes}.")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= _MAX_LEVEL:
            raise UsageError(
                f"The optimisation level must be 0 to {_MAX_LEVEL}, not {self.optimization_level}."
            )


def parse_target(text: str) -> str:
    """`sm_86` from `sm_86`, `SM86`, `86` or `8.6`.

    Raises:
        UsageError: it is none of these.
    """
    match = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", text.strip().lower())
    if match is None:
        raise UsageError(f"{text!r} is no GPU target.", hint="Type one such as sm_86.")
    return f"sm_{match[1]}{match[2]}"


def capability_of(target: str) -> tuple[int, int]:
    """Compute capability of a target: (12, 0) of `sm_120`."""
    digits = target.removeprefix("sm_")
    return int(digits[:-1]), int(digits[-1])


def current_target() -> str | None:
    """Target of this machine's first GPU; None where there is none."""
    try:
        major, minor = gpus()[0].capability
    except UnavailableError:
        return None
    return f"sm_{major}{minor}"


def resolve_flavor(asked: Flavor | Literal["auto"]) -> Flavor:
    """The flavour to use: `tensorrt` where it is installed and there is a GPU, else `rtx`.

    Raises:
        UnavailableError: this machine cannot build what was asked, or anything at all.
    """
    if asked == "auto":
        asked = "tensorrt" if lazy.installed(MODULES["tensorrt"]) and current_target() else "rtx"
    if asked == "tensorrt" and current_target() is None:
        raise UnavailableError(
            "tensorrt builds engines on the GPU they are for, and this machine has none.",
            hint="Type: --flavor rtx, which compiles without a GPU.",
        )
    if not lazy.installed(MODULES[asked]):
        raise UnavailableError(
            f"{asked} is not installed.", hint=f"Type: {lazy.install_command(MODULES[asked])}"
        )
    return asked


def supported_targets(flavor: Flavor) -> tuple[str, ...]:
    """The GPUs that this flavour can compile for on this machine.

    Raises:
        UnavailableError: the flavour is not installed, or it is `tensorrt` and there is no GPU.
    """
    if flavor == "tensorrt":
        resolve_flavor(flavor)
        here = current_target()
        return (here,) if here else ()
    names = trt_module(flavor).ComputeCapability.__members__
    found = [f"sm_{name[2:]}" for name in names if re.fullmatch(r"SM\d+", name)]
    return tuple(sorted(found, key=capability_of))


def resolve_targets(options: EngineOptions) -> tuple[str, ...]:
    """The targets to try: those asked for, else the current GPU's, else all.

    Raises:
        UsageError: one that was asked for is not supported; names those that are.
        UnavailableError: as `supported_targets`.
    """
    known = supported_targets(options.flavor)
    unknown = [target for target in options.targets if target not in known]
    if unknown:
        raise UsageError(
            f"{options.flavor} cannot compile for {', '.join(unknown)} here.",
            hint=f"Known: {', '.join(known)}.",
        )
    here = current_target()
    return options.targets or ((here,) if here in known and here is not None else known)


def fp8_targets(flavor: Flavor, asked: Sequence[str]) -> tuple[str, ...]:
    """The targets of an FP8 engine: those asked for, else the current GPU's, else all that have FP8.

    Raises:
        UsageError: one of them is older than FP8; names those that are not.
        UnavailableError: as `supported_targets`.
    """
    supported = supported_targets(flavor)
    known = tuple(target for target in supported if capability_of(target) >= _FIRST_WITH_FP8)
    here = current_target()
    wanted = tuple(map(parse_target, asked)) or ((here,) if here is not None and here in supported else known)
    old = [target for target in wanted if capability_of(target) < _FIRST_WITH_FP8]
    if old:
        raise UsageError(
            f"{', '.join(old)} has no FP8, which GPUs have from sm_89 on.",
            hint=f"Known: {', '.join(known)}. Older GPUs have --int8.",
        )
    return wanted


def default_profile(inputs: Sequence[TensorSpec], *, batch: int = 1) -> ShapeProfile:
    """Batch 1 to 8 (or `batch`, if larger), optimised for `batch`, for the inputs with a dynamic batch.

    Raises:
        UsageError: an input has another dynamic dimension.
    """
    return _batch_profile(inputs, (1, batch, max(DEFAULT_MAX_BATCH, batch)))


def _batch_profile(inputs: Sequence[TensorSpec], batches: tuple[int, int, int]) -> ShapeProfile:
    ranges = []
    for spec in inputs:
        if None in spec.shape[1:]:
            raise UsageError(
                f"Input {spec.name!r} is {_text(spec.shape)}, dynamic beyond the batch.",
                hint=f"Type: --profile '{spec.name}=MIN,OPT,MAX' with shapes such as 1x3x224x224.",
            )
        if None in spec.shape:
            ranges.append(InputRange(spec.name, *(spec.concrete(batch) for batch in batches)))
    return ShapeProfile(tuple(ranges))


def _text(shape: Sequence[int | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)


def parse_profile(text: str, inputs: Sequence[TensorSpec]) -> ShapeProfile:
    """A profile from the command line.

    Args:
        text: `1,4,8` (batches: min, opt, max), `1x3x224x224,4x3x224x224,8x3x224x224` (shapes of the only
            dynamic input), or `NAME=MIN,OPT,MAX;NAME=…` for several inputs.
        inputs: of the graph.

    Raises:
        UsageError: it is none of these, or does not fit the inputs; says what does.
    """
    dynamic = {spec.name: spec for spec in inputs if None in spec.shape}
    if re.fullmatch(r"\s*\d+\s*,\s*\d+\s*,\s*\d+\s*", text):
        low, best, high = (int(part) for part in text.split(","))
        return _batch_profile(inputs, (low, best, high))
    ranges = []
    for part in text.split(";"):
        name, equals, shapes = part.rpartition("=")
        if not equals and len(dynamic) == 1:
            name = next(iter(dynamic))
        if name.strip() not in dynamic:
            raise UsageError(
                f"The profile {part.strip()!r} is for no input with a dynamic shape.",
                hint=f"Those inputs: {_listing(dynamic.values()) or 'none; the graph needs no profile'}.",
            )
        ranges.append(_input_range(dynamic[name.strip()], shapes))
    missing = [spec for name, spec in dynamic.items() if name not in {entry.name for entry in ranges}]
    if missing:
        raise UsageError(f"The profile leaves out {_listing(missing)}.", hint="Type: NAME=MIN,OPT,MAX;NAME=…")
    return ShapeProfile(tuple(ranges))


def _listing(specs: Iterable[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {_text(spec.shape)}" for spec in specs)


def _input_range(spec: TensorSpec, text: str) -> InputRange:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(re.fullmatch(r"\d+(x\d+)*", part) for part in parts):  # min, opt, max
        raise UsageError(
            f"{text.strip()!r} is not a profile of input {spec.name!r}.",
            hint=f"Type three shapes, MIN,OPT,MAX, that fit {_text(spec.shape)}.",
        )
    shapes = [tuple(int(size) for size in part.split("x")) for part in parts]
    for shape in shapes:
        fits = len(shape) == len(spec.shape) and all(
            want in (None, size) for want, size in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            raise UsageError(
                f"The shape {_text(shape)} does not fit input {spec.name!r}, {_text(spec.shape)}."
            )
    return InputRange(spec.name, *shapes)
