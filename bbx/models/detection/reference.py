"""torchvision's own detector with the inputs and outputs of the deployable one: what parity compares with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList

from bbx.models.detection.candidates import NO_LABEL
from bbx.models.detection.options import DetectionOptions

_FILL = {"labels": NO_LABEL}


class AsItIs(nn.Module):
    """Stands in for torchvision's transform: images come preprocessed, and outputs stay in their pixels."""

    def forward(self, images: list[Tensor], targets: Any = None) -> tuple[ImageList, Any]:
        """Images float32 [3, H, W] of one size, as one batch."""
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return ImageList(torch.stack(images), sizes), targets

    def postprocess(
        self, result: list[dict[str, Tensor]], _image_shapes: Any, _original_sizes: Any
    ) -> list[dict[str, Tensor]]:
        """What the network found, unchanged."""
        return result


class TorchvisionDetector(nn.Module):
    """A detector of torchvision that takes a batch and gives padded outputs.

    Args:
        network: of `torchvision.models.detection`, in eval mode. Its thresholds and numbers are set to those
            of `how`, and its transform is replaced.
        outputs: names of what it gives, in order; see `bbx.models.detection.candidates.Detections`.
    """

    def __init__(self, network: nn.Module, how: DetectionOptions, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self._outputs = outputs
        self._detections = how.detections
        network.transform = AsItIs()
        owner = network.roi_heads if hasattr(network, "roi_heads") else network
        for name, value in (
            ("score_thresh", how.score_threshold),
            ("nms_thresh", how.iou_threshold),
            ("detections_per_img", how.detections),
        ):
            if not hasattr(owner, name):
                raise TypeError(f"{type(network).__name__} has no {name}; torchvision has changed")
            setattr(owner, name, value)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """float32 [B, 3, H, W], preprocessed, to one tensor a name of `outputs`."""
        found: list[dict[str, Tensor]] = self.network(list(images))
        counts = torch.tensor([len(each["scores"]) for each in found], device=images.device)
        given = {"num_detections": counts, "saturated": torch.zeros_like(counts, dtype=torch.bool)}
        return tuple(given[name] if name in given else self._padded(name, found) for name in self._outputs)

    def _padded(self, name: str, found: list[dict[str, Tensor]]) -> Tensor:
        rows = [each[name].squeeze(1) if name == "masks" else each[name] for each in found]
        return torch.stack(
            [
                functional.pad(
                    row,
                    (0, 0) * (row.ndim - 1) + (0, self._detections - len(row)),
                    value=_FILL.get(name, 0),
                )
                for row in rows
            ]
        )
