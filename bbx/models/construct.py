"""From a name to a bare module with its native head and random or timm's own pretrained weights."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from bbx import lazy
from bbx.errors import ModelError
from bbx.models import classic
from bbx.models.pretrained import timm_config, torchvision_weights
from bbx.models.spec import ModelSpec, Prefixed, Preset, size_text
from bbx.types import Preprocess


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw random numbers from this seed meanwhile, and leave the caller's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's only: modules are made there
        yield


def device_of(module: nn.Module) -> torch.device:
    """Where a module has its parameters; the CPU for one that has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def is_outline(module: nn.Module) -> bool:
    """Whether a module has shapes and no numbers: it was made on the meta device."""
    return device_of(module).type == "meta"


def sized(preprocess: Preprocess, spec: ModelSpec) -> Preprocess:
    """Preprocessing at the spec's image size, with the model's own proportion of crop to resize."""
    if spec.size is None:
        return preprocess
    height, width = spec.size
    return dataclasses.replace(preprocess, height=height, width=width)


def construct(
    target: Preset | Prefixed, spec: ModelSpec, checkpoint: Path | None = None
) -> tuple[nn.Module, Preprocess]:
    """Build a classic network, or a model of torchvision or timm, with its native head.

    Args:
        checkpoint: pretrained weights for timm to load, which adapts them to the image size; a
            safetensors file.

    Raises:
        ModelError: no such model, or its library cannot build it at this image size.
        UnavailableError: its library is not installed.
    """
    if isinstance(target, Preset) and target.library == "bbx":
        return getattr(classic, target.architecture)(**dict(target.options)), sized(target.preprocess, spec)
    make = _by_timm if target.library == "timm" else _by_torchvision
    module, preprocess = make(target, spec, checkpoint)
    if isinstance(target, Preset):
        preprocess = sized(target.preprocess, spec)
    return module, preprocess


def check_size(preset: Preset, spec: ModelSpec) -> None:
    """Refuse an image size at which the preset cannot run, before anything is downloaded or built.

    Raises:
        ModelError: it is below the minimum, no multiple of the stride or the patch size, or another one than
            the only possible; says which would do.
    """
    own = (preset.preprocess.height, preset.preprocess.width)
    size, multiple = spec.size or own, preset.size_multiple
    asked = size_text(spec.image_size) if spec.image_size is not None else size_text(own)
    if preset.fixed_size and size != own:
        raise ModelError(
            f"{preset.name} is made for images of {own[0]} pixels a side, and {asked} was asked.",
            hint="Leave --image-size out.",
        )
    if min(size) < preset.min_size:
        raise ModelError(
            f"{preset.name} needs images of at least {preset.min_size} pixels a side, and {asked} was asked.",
            hint=f"Type: --image-size {preset.min_size}, or more.",
        )
    if any(side % multiple for side in size):
        below, above = (
            size_text(_squared(tuple(round_to(side, multiple) for side in size)))
            for round_to in (_rounded_down, _rounded_up)
        )
        raise ModelError(
            f"{preset.name} needs an image size that is a multiple of {multiple}, and {asked} was asked.",
            hint=f"Type: --image-size {below}, or {above}.",
        )
    if preset.map_layout == "tokens" and size[0] != size[1]:
        raise ModelError(
            f"{preset.name} takes square images only, and {asked} was asked.",
            hint=f"Type: --image-size {max(size)}",
        )


def _rounded_down(side: int, multiple: int) -> int:
    return max(multiple, side // multiple * multiple)


def _rounded_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _squared(size: tuple[int, ...]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else (size[0], size[1])


def _by_torchvision(
    target: Preset | Prefixed, spec: ModelSpec, _checkpoint: Path | None
) -> tuple[nn.Module, Preprocess]:
    how = torchvision_weights(target.architecture).transforms()
    side = how.crop_size[0]
    preprocess = sized(
        Preprocess(
            side,
            side,
            crop_pct=min(1.0, side / how.resize_size[0]),
            interpolation=_interpolation(how.interpolation.value),
            mean=tuple(how.mean),
            std=tuple(how.std),
        ),
        spec,
    )
    options: dict[str, Any] = dict(target.options) if isinstance(target, Preset) else {}
    if target.architecture.startswith("vit_"):  # the one family here that is built for one image size
        options["image_size"] = preprocess.height
    with _as_model_errors(spec):
        return lazy.require("torchvision").models.get_model(
            target.architecture, weights=None, **options
        ), preprocess


def _by_timm(
    target: Preset | Prefixed, spec: ModelSpec, checkpoint: Path | None
) -> tuple[nn.Module, Preprocess]:
    config = timm_config(target.architecture)
    options: dict[str, Any] = {}
    if config is not None and config.fixed_input_size and spec.image_size is not None:
        options["img_size"] = spec.image_size
    if checkpoint is not None:
        # `file` comes before any address, and with `custom_load` the format would be another.
        options["pretrained_cfg_overlay"] = {"file": str(checkpoint), "custom_load": False}
    with _as_model_errors(spec):
        module = lazy.require("timm").create_model(
            target.architecture, pretrained=checkpoint is not None, **options
        )
    return module, sized(_timm_preprocess(module, spec), spec)


def _timm_preprocess(module: nn.Module, spec: ModelSpec) -> Preprocess:
    config: dict[str, Any] = getattr(module, "pretrained_cfg", {})
    channels, height, width = config.get("input_size", (3, 224, 224))
    if channels != 3:
        raise ModelError(f"{spec.name} takes {channels} channels; bbx feeds images of three.")
    return Preprocess(
        height,
        width,
        crop_pct=config.get("crop_pct", 0.875),
        interpolation=_interpolation(config.get("interpolation", "bicubic")),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _interpolation(name: str) -> Literal["bilinear", "bicubic"]:
    return "bicubic" if name == "bicubic" else "bilinear"


@contextlib.contextmanager
def _as_model_errors(spec: ModelSpec) -> Iterator[None]:
    """What a library's constructor raises for options that a model cannot have."""
    try:
        yield
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        size = f" at image size {size_text(spec.image_size)}" if spec.image_size else ""
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{spec.name} cannot be built{size}: {reason}") from error
