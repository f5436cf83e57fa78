"""What every segmenter has in common: coarse logits, brought to the image's size, and perhaps labels."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

BYTE_LABELS = 256
"""Up to this many classes, labels are bytes: a quarter of what int32 costs to write and to copy."""


class Segmenter(nn.Module, ABC):
    """A network that gives each pixel of its input a score for each class, or its label.

    Attributes:
        size: height and width of the input, and of the output, in pixels.
        num_classes: with the background, where the data set has one.
        argmax: whether labels leave the network, and not logits.
        outputs: name of the one output, `logits` or `labels`.
        class_layer: path of the layer by whose size a checkpoint of another class count is recognised.
    """

    class_layer: str = "classifier"

    def __init__(self, size: tuple[int, int], *, num_classes: int, argmax: bool) -> None:
        super().__init__()
        self.size = size
        self.num_classes = num_classes
        self.argmax = argmax
        self.outputs = ("labels",) if argmax else ("logits",)

    @abstractmethod
    def coarse_logits(self, images: Tensor) -> Tensor:
        """float32 [batch, 3, height, width] to [batch, classes, …] at the finest size it computes."""

    def forward(self, images: Tensor) -> Tensor:
        """Segment images.

        Args:
            images: float32 [batch, 3, height, width] of `size`, normalised.

        Returns:
            Logits, float32 [batch, classes, height, width]; or labels [batch, height, width], uint8 up to
            256 classes and int32 beyond.
        """
        logits = resized(self.coarse_logits(images), self.size)
        return labels_of(logits) if self.argmax else logits


def resized(maps: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Maps [batch, channels, …] brought to `size` bilinearly, corners not aligned, as torchvision does."""
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def labels_of(logits: Tensor) -> Tensor:
    """The class of the highest logit of each pixel; of equal ones, the lowest class.

    Args:
        logits: float [batch, classes, height, width].

    Returns:
        [batch, height, width], uint8 up to 256 classes and int32 beyond.
    """
    labels = logits.argmax(dim=1)
    if logits.shape[1] > BYTE_LABELS:
        return labels.to(torch.int32)
    # TensorRT converts to bytes from floating point only.
    return labels.to(torch.float32).to(torch.uint8)
