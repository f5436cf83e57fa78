"""Both ways to pool features from a pyramid give torchvision's, sample for sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from bbx.errors import ModelError
from bbx.models.detection import roi_align as module
from bbx.models.detection.roi_align import pooling_of, roi_align

LOWERINGS = ("static", "onnx")
SIZE = (192, 256)
STRIDES = (4, 8, 16, 32)
SIZES = [(SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]


def _pooler(levels: int = 4, size: int = 7, sampling: int = 2) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign([str(level) for level in range(levels)], size, sampling)


def _maps(images: int, sizes: list[tuple[int, int]] = SIZES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(images, 8, *size, generator=generator) for size in sizes]


def _boxes(images: int, count: int = 60) -> Tensor:
    """From slivers to the whole image, some of them over its border."""
    generator = torch.Generator().manual_seed(2)
    bounds = torch.tensor([SIZE[1], SIZE[0]])
    centres = torch.rand(images, count, 2, generator=generator) * bounds
    sizes = torch.rand(images, count, 2, generator=generator).square() * bounds
    return torch.cat([centres - sizes / 2, centres + sizes / 2], dim=2)


def _expected(pooler: MultiScaleRoIAlign, maps: list[Tensor], boxes: Tensor) -> Tensor:
    named = {str(level): cells for level, cells in enumerate(maps)}
    pooled = pooler(named, list(boxes), [SIZE] * len(boxes))
    return pooled.reshape(*boxes.shape[:2], *pooled.shape[1:])


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(("size", "sampling"), [(7, 2), (14, 2), (3, 1)])
def test_a_pyramid_is_pooled_as_by_torchvision(lowering: str, size: int, sampling: int) -> None:
    maps, boxes, pooler = _maps(3), _boxes(3), _pooler(size=size, sampling=sampling)
    found = roi_align(maps, boxes, pooling_of(pooler, SIZES, SIZE), lowering)
    assert found.shape == (3, 60, 8, size, size)
    torch.testing.assert_close(found, _expected(pooler, maps, boxes), rtol=0, atol=1e-4)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_borders_whole_images_points_and_boxes_outside(lowering: str) -> None:
    boxes = torch.tensor(
        [
            [0.0, 0, 256, 192],  # the whole image
            [0, 0, 1, 1],
            [255, 191, 256, 192],
            [100, 100, 100, 100],  # a point
            [-50, -40, 30, 20],
            [250, 180, 300, 240],
            [400, 400, 500, 500],  # all of it outside
            [-3, 50, 250, 51],
        ]
    )[None]
    maps, pooler = _maps(1), _pooler()
    found = roi_align(maps, boxes, pooling_of(pooler, SIZES, SIZE), lowering)
    torch.testing.assert_close(found, _expected(pooler, maps, boxes), rtol=0, atol=1e-4)
    assert (found[0, 6] == 0).all()


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_boxes_at_the_limit_of_a_level_go_where_torchvision_sends_them(lowering: str) -> None:
    sides = [55.9, 56.0, 56.1, 111.9, 112.0, 112.1, 223.9, 224.0, 224.1]
    boxes = torch.tensor([[0.0, 0.0, side, side] for side in sides])[None]
    maps, pooler = _maps(1), _pooler()
    found = roi_align(maps, boxes, pooling_of(pooler, SIZES, SIZE), lowering)
    torch.testing.assert_close(found, _expected(pooler, maps, boxes), rtol=0, atol=1e-4)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("strides", [(16,), (32, 32)])
def test_one_level_and_two_of_one_stride_as_mobilenets_have(lowering: str, strides: tuple[int, ...]) -> None:
    sizes = [(SIZE[0] // stride, SIZE[1] // stride) for stride in strides]
    maps, boxes, pooler = _maps(2, sizes), _boxes(2), _pooler(levels=len(strides))
    how = pooling_of(pooler, sizes, SIZE)
    assert how.strides == (float(strides[0]),)
    found = roi_align(maps, boxes, how, lowering)
    torch.testing.assert_close(found, _expected(pooler, maps, boxes), rtol=0, atol=1e-4)


def test_gathering_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, boxes, how = _maps(2), _boxes(2), pooling_of(_pooler(), SIZES, SIZE)
    whole = roi_align(maps, boxes, how, "static")
    monkeypatch.setattr(module, "TAPS_AT_ONCE", 10_000)
    torch.testing.assert_close(roi_align(maps, boxes, how, "static"), whole)


@pytest.mark.parametrize("pooler", [_pooler(sampling=0), MultiScaleRoIAlign(["0"], (7, 5), 2)])
def test_a_pooler_without_a_fixed_shape_is_refused(pooler: MultiScaleRoIAlign) -> None:
    with pytest.raises(ModelError, match="sampling_ratio=2"):
        pooling_of(pooler, SIZES, SIZE)
