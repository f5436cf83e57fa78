"""The anchors of a detector that takes images of one size: computed once, by torchvision's own generators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models.detection.image_list import ImageList

from bbx.models.construct import device_of


def feature_maps(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """What a detector's backbone gives, finest level first: each [B, C, H_l, W_l]."""
    maps = backbone(images)
    return [maps] if isinstance(maps, Tensor) else list(maps.values())


def map_sizes(backbone: nn.Module, size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Height and width of each map that a detector's backbone gives for images of `size`, by its name.

    The backbone runs on fake tensors: its shapes are found out without computing anything.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        maps = backbone(torch.zeros(1, 3, *size, device=device_of(backbone)))
        named = {"0": maps} if isinstance(maps, Tensor) else maps
        return {name: (level.shape[-2], level.shape[-1]) for name, level in named.items()}


def fixed_anchors(backbone: nn.Module, generator: Any, size: tuple[int, int]) -> Tensor:
    """Anchors of every level for images of `size`, in the order in which torchvision's heads number them.

    Args:
        generator: torchvision's `AnchorGenerator` or `DefaultBoxGenerator`.
        size: height and width of the network's input.

    Returns:
        float32 [N, 4] as x1, y1, x2, y2 in pixels.
    """
    # The generators read only the sides of what they are given.
    images = ImageList(torch.empty(1, 0, *size), [size])
    grids = map_sizes(backbone, size).values()
    (anchors,) = generator(images, [torch.empty(1, 0, *grid) for grid in grids])
    found: Tensor = anchors
    return found
