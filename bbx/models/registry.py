"""From a name to what it stands for. Loads no heavy library for a name that exists."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from bbx import lazy
from bbx.errors import ModelError, UsageError, did_you_mean, nearest
from bbx.models.spec import LIBRARIES, ModelSpec, Prefixed, Preset
from bbx.models.zoo import PRESETS
from bbx.models.zoo_classic import CLASSIC
from bbx.models.zoo_dense import DENSE
from bbx.types import Task

_presets: dict[str, Preset] = {}


def register(preset: Preset) -> Preset:
    """Make a preset known by its name.

    Raises:
        ModelError: another preset has that name.
    """
    if preset.name in _presets:
        raise ModelError(
            f"A preset named {preset.name!r} is registered already.", hint="Choose another name."
        )
    _presets[preset.name] = preset
    return preset


def presets(task: Task | None = None) -> tuple[Preset, ...]:
    """All presets, or those of one task, in the order in which they were registered."""
    return tuple(preset for preset in _presets.values() if task in (None, preset.task))


def preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        ModelError: there is none; names the nearest, and the prefix under which a library has it.
    """
    if name in _presets:
        return _presets[name]
    hint = did_you_mean(name, _presets)
    owners = [library for library in LIBRARIES if name.isidentifier() and _defines(library, name)]
    if owners:
        hint = f"Type: {owners[0]}:{name}"
    raise ModelError(f"There is no preset {name!r}.", hint=hint or "`bbx models` lists what can be built.")


def resolve(name: str) -> Preset | Prefixed:
    """What a name stands for: a preset, `torchvision:NAME`, `timm:NAME` or `package.module:factory`.

    A library's name for a preset's architecture gives that preset. A library is imported only when its
    source has no function of the name, to find out for certain and to name the nearest. A factory is not
    looked for here: that would run the user's code.

    Raises:
        ModelError: no such model, or not a name of any of these forms; names the nearest.
        UnavailableError: the library of the prefix is not installed.
    """
    prefix, colon, rest = name.partition(":")
    if not colon:
        return preset(name)
    for known in _presets.values():
        if name in (known.source, known.published):
            return known
    if prefix in LIBRARIES:
        _require_name(prefix, rest)
    elif not all(part.isidentifier() for part in (*prefix.split("."), *rest.split("."))):
        close = nearest(prefix, LIBRARIES)
        raise ModelError(
            f"{name!r} names no model.",
            hint=f"Type {close[0]}:{rest}."
            if close
            else "The forms are NAME, torchvision:NAME, timm:NAME and package.module:factory.",
        )
    return Prefixed(prefix, rest)


_DETECTION_OPTIONS = ("score_threshold", "iou_threshold", "candidates", "detections", "lowering")
_DENSE_TASKS = ("detection", "segmentation")


def task_of(target: Preset | Prefixed) -> Task:
    """What a model's outputs mean; a model outside the presets counts as a classifier."""
    return target.task if isinstance(target, Preset) else "classification"


def check_options(spec: ModelSpec) -> Preset | Prefixed:
    """Refuse options that the model's task does not have; gives what the name stands for.

    Raises:
        ModelError: as `resolve`.
        UsageError: names the option and where it belongs.
    """
    target = resolve(spec.name)
    task = task_of(target)
    replaceable = isinstance(target, Preset) and target.backbone is not None
    keypoints = isinstance(target, Preset) and target.num_keypoints is not None
    belongs = {
        "head": (task == "classification", "classifiers"),
        "backbone": (replaceable, "models on a feature pyramid, U-Net and semantic FPN"),
        "argmax": (task == "segmentation", "segmenters"),
        "num_keypoints": (keypoints, "detectors of keypoints"),
        **dict.fromkeys(_DETECTION_OPTIONS, (task == "detection", "detectors")),
    }
    defaults = ModelSpec(spec.name)
    for option, (fits, owners) in belongs.items():
        if not fits and getattr(spec, option) != getattr(defaults, option):
            flag = "--" + option.replace("_", "-")
            raise UsageError(f"{flag} belongs to {owners}, and {spec.name} is none.", hint="Leave it out.")
    if spec.backbone is not None and task_of(resolve(spec.backbone)) in _DENSE_TASKS:
        raise UsageError(
            f"{spec.backbone} is a {task_of(resolve(spec.backbone))} model and no backbone.",
            hint="`bbx models --task classification` lists backbones.",
        )
    return target


def lowered(spec: ModelSpec, target: Literal["static", "onnx"]) -> ModelSpec:
    """The spec with `auto` lowering decided for a target; unchanged where nothing is to be decided."""
    if spec.lowering != "auto" or task_of(resolve(spec.name)) != "detection":
        return spec
    return replace(spec, lowering=target)


def library_names(library: str) -> list[str]:
    """Names of all image classification models of `torchvision` or `timm`, sorted; imports the library.

    Raises:
        UnavailableError: the library is not installed.
    """
    if library == "timm":
        return sorted(lazy.require("timm").list_models())
    models = lazy.require("torchvision").models
    return sorted(models.list_models(module=models))


def _require_name(library: str, name: str) -> None:
    # timm's names may carry the tag of a set of weights: convnext_atto.d2_in1k.
    architecture = name.partition(".")[0] if library == "timm" else name
    if _defines(library, architecture):
        return
    known = library_names(library)
    if architecture not in known:
        close = [f"{library}:{other}" for other in nearest(architecture, known)]
        hint = f"Nearest: {', '.join(close)}." if close else "`bbx models` says how to list what it has."
        raise ModelError(f"{library} has no model {name!r}.", hint=hint)


def _defines(library: str, name: str) -> bool:
    """Whether a function of this name stands in the library's models, read without importing it."""
    spec = importlib.util.find_spec(library)
    definition = re.compile(rb"^def %s\(" % re.escape(name).encode(), re.MULTILINE)
    return any(
        definition.search(file.read_bytes())
        for location in (spec.submodule_search_locations or () if spec else ())
        for file in Path(location, "models").glob("*.py")
    )


for _entry in (*PRESETS, *CLASSIC, *DENSE):
    register(_entry)
