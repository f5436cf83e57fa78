"""What every family of models is put together from before its input is decided."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from bbx.artifact import WeightsOrigin
from bbx.types import Postprocess, Preprocess, TensorSpec


@dataclass(frozen=True, slots=True)
class Parts:
    """A module for float32 images, and what is known of it.

    Attributes:
        module: takes float32 [batch, 3, height, width]; gives one tensor, or a tuple as `outputs` says.
        outputs: in the order of what the module gives.
        postprocess: what they mean; None where only the module's author knows.
        reference: another module for the same input, whose answers are the right ones: the library's own form
            of a network that bbx has written again. None where the module is the library's.
        origin: of the weights.
        notes: what was done to the weights or left out, in words.
        head: of a classifier, the path in `module` of what makes the logits; None where it has no such part.
    """

    module: nn.Module
    preprocess: Preprocess
    outputs: tuple[TensorSpec, ...]
    postprocess: Postprocess | None
    origin: WeightsOrigin
    notes: tuple[str, ...] = ()
    reference: nn.Module | None = None
    head: str | None = None
