"""Which weights lie on this machine: named ones, and those in the caches of torch and the hub.

Nothing heavy is imported.

`--weights auto` gives another result once weights have been downloaded. So what the caches hold for a model
is part of what its artefact depends on, and must be known in the time in which an artefact is reused.
"""

from __future__ import annotations

import os
from pathlib import Path

from bbx import lazy
from bbx.errors import WeightsError
from bbx.models.registry import resolve
from bbx.models.spec import WEIGHT_POLICIES, Prefixed, Preset

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""Of the files that `--weights` takes."""


def named_checkpoint(weights: str) -> Path:
    """The file that `--weights` names.

    Raises:
        WeightsError: there is no such file.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        known, suffixes = ", ".join(WEIGHT_POLICIES), ", ".join(CHECKPOINT_SUFFIXES)
        hint = f"Known: {known}, or a file that ends in {suffixes}."
        raise WeightsError(f"There is no checkpoint {path}.", hint=hint)
    return path


def torch_checkpoints() -> Path:
    """Where torch.hub keeps downloaded checkpoints (`TORCH_HOME`, `XDG_CACHE_HOME`)."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or Path(cache, "torch"), "hub", "checkpoints")


def hugging_face_hub() -> Path:
    """Where the Hugging Face hub keeps downloaded repositories (`HF_HUB_CACHE`, `HF_HOME`)."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    home = os.environ.get("HF_HOME") or str(Path(cache, "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub"))


def weights_at_hand(name: str, backbone: str | None = None) -> list[str]:
    """Names of files, repositories and packages here that may hold pretrained weights of a model's.

    May name too many (`resnet50-…` and `resnet50_gn` for `resnet50`), never too few.

    Args:
        backbone: of the model, where it is not its own.

    Raises:
        ModelError: there is no such model.
    """
    target = resolve(name)
    own = target.backbone if isinstance(target, Preset) else None
    under = backbone or own
    return _at_hand(target) + (_at_hand(resolve(under)) if under else [])


def _at_hand(target: Preset | Prefixed) -> list[str]:
    architecture = target.weights_source.partition(":")[2].partition(".")[0]
    found = [path.name for path in torch_checkpoints().glob(f"{architecture}*")]
    found += [path.name for path in hugging_face_hub().glob(f"models--*--{architecture}*")]
    if isinstance(target, Preset) and target.weights_package and lazy.installed(target.weights_package):
        found.append(target.weights_package)
    return sorted(found)
