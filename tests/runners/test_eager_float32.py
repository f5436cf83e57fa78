"""A runner in half precision leaves in FP32 what a module says must stay there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bbx.runners.eager import EagerRunner
from bbx.types import TensorSpec

FINE = 1333.125  # BF16 knows 1328 and 1336


class Boxes(nn.Module):
    """Anchors beside a convolution, as detectors have them."""

    anchors: Tensor
    float32_because = "works on boxes"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("anchors", torch.full((4,), FINE), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        offsets = self.conv(images).mean(dim=(2, 3))
        return self.anchors + 0 * offsets.float()


@pytest.mark.parametrize("marked", [True, False])
def test_anchors_keep_their_bits(marked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not marked:
        monkeypatch.delattr(Boxes, "float32_because")
    module = Boxes().eval()
    inputs = (TensorSpec("images", "float32", (None, 3, 4, 4)),)
    outputs = (TensorSpec("boxes", "float32", (None, 4)),)
    with EagerRunner(module, inputs, outputs, dtype=torch.bfloat16) as runner:
        found = runner.infer({"images": np.ones((2, 3, 4, 4), np.float32)})["boxes"]
    assert (found == FINE).all() == marked
    assert module.anchors.dtype is torch.float32
    assert module.conv.weight.dtype is torch.float32
