"""The decoders learn: shapes pasted on photographs, told apart by their texture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional

from bbx.images import photograph_batch
from bbx.models.segmentation.build import segmenter
from bbx.models.spec import ModelSpec
from bbx.types import Preprocess

_SIDE = 64
_CLASSES = 3
_STEPS = 40
_BATCH = 8


class Scenes:
    """Photographs with blobs of two textures, and the class of each pixel."""

    def __init__(self, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self._photographs = torch.from_numpy(photograph_batch(Preprocess(160, 160), 8))

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 [count, 3, side, side] and labels int64 [count, side, side]."""
        images = torch.stack([self._crop() for _ in range(count)])
        noise = torch.randn(count, 2, _SIDE // 16, _SIDE // 16, generator=self._random)
        fields = functional.interpolate(noise, size=(_SIDE, _SIDE), mode="bicubic")
        blobs = fields > 0.6
        checks = (torch.arange(_SIDE)[:, None] // 4 + torch.arange(_SIDE) // 4) % 2 * 2.0 - 1.0
        stripes = (torch.arange(_SIDE) // 3 % 2 * 2.0 - 1.0).expand(_SIDE, _SIDE)
        labels = torch.zeros(count, _SIDE, _SIDE, dtype=torch.int64)
        for label, texture in enumerate((checks, stripes), start=1):
            mask = blobs[:, label - 1]
            labels[mask] = label
            images = torch.where(mask[:, None], 0.4 * images + texture, images)
        return images, labels

    def _crop(self) -> torch.Tensor:
        which, top, left = (
            int(torch.randint(limit, (), generator=self._random)) for limit in (8, 160 - _SIDE, 160 - _SIDE)
        )
        return self._photographs[which, :, top : top + _SIDE, left : left + _SIDE]


def mean_iou(labels: torch.Tensor, wanted: torch.Tensor) -> float:
    """Mean over classes of intersection over union, over all pixels."""
    shares = [
        ((labels == each) & (wanted == each)).sum() / ((labels == each) | (wanted == each)).sum()
        for each in range(_CLASSES)
    ]
    return float(np.mean(shares))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Maps this small gain nothing from a second thread, and on a busy machine it waits in a loop."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("architecture", ["unet", "semantic_fpn"])
def test_a_decoder_learns_to_tell_textures_apart(architecture: str) -> None:
    torch.manual_seed(0)
    backbone = ModelSpec("resnet18", weights="random", image_size=_SIDE)
    module = segmenter(architecture, backbone=backbone, num_classes=_CLASSES, size=(_SIDE, _SIDE)).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    scenes = Scenes(seed=1)
    for _ in range(_STEPS):
        images, labels = scenes.batch(_BATCH)
        optimizer.zero_grad()
        functional.cross_entropy(module(images), labels).backward()
        optimizer.step()
    images, labels = Scenes(seed=2).batch(32)
    with torch.inference_mode():
        found = module.eval()(images).argmax(dim=1)
    constant = max(mean_iou(torch.full_like(labels, each), labels) for each in range(_CLASSES))
    learned = mean_iou(found, labels)
    assert constant < 0.35
    assert learned > constant + 0.35, f"mIoU {learned:.3f}, of a constant answer {constant:.3f}"
