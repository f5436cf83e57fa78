"""Which weights lie in the caches of torch and the Hugging Face hub, told without importing either.

`--weights auto` gives another result once weights have been downloaded. So what the caches hold for a model
is part of what its artefact depends on, and must be known in the time in which an artefact is reused.
"""

from __future__ import annotations

import os
from pathlib import Path

from bbx import lazy
from bbx.models.registry import resolve
from bbx.models.spec import Preset


def torch_checkpoints() -> Path:
    """Where torch.hub keeps downloaded checkpoints (`TORCH_HOME`, `XDG_CACHE_HOME`)."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or Path(cache, "torch"), "hub", "checkpoints")


def hugging_face_hub() -> Path:
    """Where the Hugging Face hub keeps downloaded repositories (`HF_HUB_CACHE`, `HF_HOME`)."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    home = os.environ.get("HF_HOME") or str(Path(cache, "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub"))


def weights_at_hand(name: str) -> list[str]:
    """Names of files, repositories and packages here that may hold a model's pretrained weights.

    May name too many (`resnet50-…` and `resnet50_gn` for `resnet50`), never too few.

    Raises:
        ModelError: there is no such model.
    """
    target = resolve(name)
    architecture = target.architecture.partition(".")[0]
    found = [path.name for path in torch_checkpoints().glob(f"{architecture}*")]
    found += [path.name for path in hugging_face_hub().glob(f"models--*--{architecture}*")]
    if isinstance(target, Preset) and target.weights_package and lazy.installed(target.weights_package):
        found.append(target.weights_package)
    return sorted(found)
