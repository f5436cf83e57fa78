"""torchvision's own segmenter with the output of the deployable one: what parity compares with."""

from __future__ import annotations

from torch import Tensor, nn

from bbx.models.segmentation.base import labels_of


class TorchvisionLogits(nn.Module):
    """A segmenter of torchvision that gives one tensor.

    Args:
        network: of `torchvision.models.segmentation`, in eval mode; it gives logits as `out` of a dict.
        argmax: give the label of each pixel, and not the logits.
    """

    def __init__(self, network: nn.Module, *, argmax: bool) -> None:
        super().__init__()
        self.network = network
        self._argmax = argmax

    def forward(self, images: Tensor) -> Tensor:
        """float32 [B, 3, H, W], normalised, to logits float32 [B, C, H, W], or labels [B, H, W]."""
        logits: Tensor = self.network(images)["out"]
        return labels_of(logits) if self._argmax else logits
