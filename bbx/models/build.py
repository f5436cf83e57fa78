"""From a spec to a module that is ready to run: architecture, weights, head, preprocessing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from bbx.artifact import WeightsOrigin
from bbx.models.classifier import from_factory, from_library
from bbx.models.dense import detector, segmenter
from bbx.models.parts import Parts
from bbx.models.registry import check_options
from bbx.models.spec import ModelSpec, Prefixed
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


def build(spec: ModelSpec) -> Model:
    """Build a model: the same spec and the same checkpoint give the same numbers in every process.

    Raises:
        ModelError: unknown model, or one that cannot have these options.
        UsageError: options that do not go together.
        WeightsError: the weights cannot be had or do not fit.
        UnavailableError: a library is not installed.
    """
    parts = _parts(spec)
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
    )


def _parts(spec: ModelSpec) -> Parts:
    target = check_options(spec)
    if isinstance(target, Prefixed):
        return from_factory(target, spec) if target.is_factory else from_library(target, spec)
    match target.task:
        case "classification":
            return from_library(target, spec)
        case "detection":
            return detector(target, spec)
        case "segmentation":
            return segmenter(target, spec)
