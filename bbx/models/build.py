"""From a spec to a module that is ready to run: architecture, weights, head, preprocessing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from bbx.artifact import WeightsOrigin
from bbx.models.caches import named_checkpoint
from bbx.models.class_names import published_classes
from bbx.models.classifier import from_factory, from_library
from bbx.models.construct import sized
from bbx.models.dense import detector, segmenter
from bbx.models.parts import Parts
from bbx.models.registry import check_options
from bbx.models.spec import ModelSpec, Prefixed
from bbx.models.trained import is_checkpoint, read_trained
from bbx.types import Postprocess, Preprocess, TensorSpec

INPUT = "images"


@dataclass(frozen=True, slots=True)
class Model:
    """A module in eval mode and what is known of it.

    Attributes:
        module: takes one tensor as `inputs` says and gives one tensor, or a tuple, as `outputs` says; every
            submodule is in eval mode.
        spec: what was asked for.
        inputs: one, named `images`.
        outputs: `logits`, or `features` for head `none`; for detectors and segmenters see `Postprocess`.
        preprocess: how an image becomes a row of the input.
        postprocess: what the outputs mean; None for a factory, whose author knows.
        weights: where they came from.
        notes: what was done to the weights or left out, in words.
        reference: the library's own form of the network, which takes and gives the same; None where `module`
            is it.
        head: of a classifier, the path in `module` of what makes the logits; None where it has no such part,
            and with `input` uint8.
    """

    module: nn.Module
    spec: ModelSpec
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    postprocess: Postprocess | None
    weights: WeightsOrigin
    notes: tuple[str, ...]
    reference: nn.Module | None = None
    head: str | None = None


class ByteInput(nn.Module):
    """A network that takes NHWC bytes: layout and normalisation, in float32, then the network.

    Args:
        network: takes float32 [batch, 3, height, width].
        mean: per RGB channel, for values in 0..1.
        std: likewise.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self, network: nn.Module, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> None:
        super().__init__()
        self.network = network
        channels = torch.tensor([mean, std], dtype=torch.float64).view(2, 3, 1, 1)
        self.register_buffer("scale", (1 / (255 * channels[1])).float(), persistent=False)
        self.register_buffer("shift", (-channels[0] / channels[1]).float(), persistent=False)

    def forward(self, images: torch.Tensor) -> Any:
        """uint8 [batch, height, width, 3] to the network's output."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        # In the dtype that the network computes in, which these buffers have been moved to with it.
        return self.network((pixels * self.scale + self.shift).to(self.scale.dtype))


def build(spec: ModelSpec, *, to_learn: bool = False) -> Model:
    """Build a model: the same spec and the same checkpoint give the same numbers in every process.

    The classes' names and the preprocessing are those of a checkpoint that `bbx train` wrote.

    Args:
        to_learn: it is to be trained. Random weights stay as its library draws them, and weights for another
            number of classes, or under another head, are loaded without their head; a note says so.

    Raises:
        ModelError: unknown model, or one that cannot have these options.
        UsageError: options that do not go together.
        WeightsError: the weights cannot be had or do not fit.
        UnavailableError: a library is not installed.
    """
    parts = _described(_parts(spec, to_learn=to_learn), spec)
    module, reference, preprocess = parts.module.eval(), parts.reference, parts.preprocess
    if spec.input == "uint8":
        module = ByteInput(module, preprocess.mean, preprocess.std).eval()
        if reference is not None:
            reference = ByteInput(reference, preprocess.mean, preprocess.std).eval()
        preprocess = replace(preprocess, dtype="uint8", layout="NHWC")
    return Model(
        module=module,
        spec=spec,
        inputs=(TensorSpec(INPUT, preprocess.dtype, preprocess.input_shape),),
        outputs=parts.outputs,
        preprocess=preprocess,
        postprocess=parts.postprocess,
        weights=parts.origin,
        notes=parts.notes,
        reference=reference,
        head=parts.head if spec.input == "float32" else None,
    )


def _parts(spec: ModelSpec, *, to_learn: bool) -> Parts:
    target = check_options(spec)
    if isinstance(target, Prefixed) and target.is_factory:
        return from_factory(target, spec)
    if isinstance(target, Prefixed) or target.task == "classification":
        return from_library(target, spec, to_learn=to_learn)
    if target.task == "detection":
        return detector(target, spec, to_learn=to_learn)
    return segmenter(target, spec, to_learn=to_learn)


def _described(parts: Parts, spec: ModelSpec) -> Parts:
    """The parts with the names of the classes, and with the preprocessing of a checkpoint of `bbx train`."""
    trained = read_trained(named_checkpoint(spec.weights)) if is_checkpoint(spec.weights) else None
    if trained is None or trained.spec["name"] != spec.name or spec.head == "none":
        return _with_published_classes(parts)
    means = parts.postprocess or Postprocess(trained.task, parts.outputs[0].shape[-1])
    if means.num_classes == len(trained.classes):
        parts = replace(parts, postprocess=replace(means, classes=trained.classes))
    return replace(parts, preprocess=sized(trained.preprocess, spec))


def _with_published_classes(parts: Parts) -> Parts:
    means = parts.postprocess
    if means is None or parts.origin != "pretrained":
        return parts
    classes = published_classes(means.task, means.num_classes)
    return replace(parts, postprocess=replace(means, classes=classes))
