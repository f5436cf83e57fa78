"""The policy behind `--weights`: which weights a model gets, where they came from, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bbx import lazy, process
from bbx.artifact import WeightsFile, WeightsOrigin, sha256_of
from bbx.errors import WeightsError
from bbx.models.caches import named_checkpoint
from bbx.models.pretrained import (
    Published,
    cached_pretrained,
    download,
    packaged_weights,
    published_weights,
    reachable,
)
from bbx.models.spec import ModelSpec, Prefixed, Preset

__all__ = ["Choice", "cached_pretrained", "choose"]


@dataclass(frozen=True, slots=True)
class Choice:
    """The weights that a model gets.

    Attributes:
        origin: as the manifest records it.
        path: file to load; None for random weights.
        in_order: whether the file's tensors stand in the model's order under other names.
    """

    origin: WeightsOrigin
    path: Path | None = None
    in_order: bool = False


def choose(spec: ModelSpec, target: Preset | Prefixed) -> Choice:
    """Decide by `spec.weights`, downloading what must be downloaded.

    `auto` settles for random weights where pretrained ones cannot be had within seconds, and warns.

    Raises:
        WeightsError: the file is missing; or the pretrained weights that were asked for do not exist,
            cannot be had, or are damaged in the cache.
    """
    if spec.weights == "random":
        return Choice("random")
    if spec.weights_are_a_file:
        return _from_file(spec.weights)
    if (packaged := packaged_weights(target)) is not None:
        return Choice("pretrained", packaged, in_order=True)
    published = published_weights(target)
    if published is not None and published.file is not None:
        return Choice("pretrained", published.file)
    try:
        return Choice("pretrained", _downloaded(published, target))
    except WeightsError as error:
        if spec.weights == "pretrained":
            raise
        process.warn(
            f"{spec.name} has RANDOM weights (seed {spec.seed}): {error.message} Its outputs mean nothing; "
            f"shapes and speed are real. {error.hint}".rstrip()
        )
        return Choice("random")


def _from_file(weights: str) -> Choice:
    path = named_checkpoint(weights)
    return Choice(WeightsFile(path=str(path), sha256=sha256_of(path)), path)


def _downloaded(published: Published | None, target: Preset | Prefixed) -> Path:
    if published is None:
        raise WeightsError(
            f"Nobody publishes pretrained weights for {target.name} that bbx could read.",
            hint="Name a checkpoint: --weights FILE",
        )
    if not reachable(published.url):
        hint = "Connect, or name a checkpoint: --weights FILE"
        if isinstance(target, Preset) and target.weights_package is not None:
            hint = f"Type: {lazy.install_command(target.weights_package)}"
        raise WeightsError(
            f"{target.name}: no pretrained weights are in the cache, and {published.host} does not answer.",
            hint=hint,
        )
    return download(published)
