"""Keypoints against torchvision's own, on heat maps of noise, which has many peaks of nearly equal height."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints

from bbx.models.detection.keypoints import SPREAD, locate

BOXES, KEYPOINTS, CELLS = 16, 17, 56
LARGEST = (800, 1333)


def heat_maps(generator: torch.Generator) -> Tensor:
    """As a Keypoint R-CNN's head makes them: enlarged twofold."""
    noise = torch.randn(BOXES, KEYPOINTS, CELLS // 2, CELLS // 2, generator=generator)
    return functional.interpolate(noise, scale_factor=2, mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    ("widths", "heights"),
    [
        ((1, SPREAD), (1, SPREAD)),
        ((SPREAD, 200), (SPREAD, 200)),
        ((400, 1333), (300, 800)),
        ((3, 54), (SPREAD, 800)),  # someone far away, standing
        ((SPREAD, 1333), (1, 60)),
        ((55, 57), (55, 800)),
    ],
)
def test_keypoints_are_the_pixels_that_torchvision_finds(
    widths: tuple[int, int], heights: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    heat = heat_maps(generator)
    low, high = torch.tensor([widths, heights], dtype=torch.float32).T
    sides = low + torch.rand(BOXES, 2, generator=generator) * (high - low)
    sides[:4] = sides[:4].round()
    corner = 100 * torch.rand(BOXES, 2, generator=generator)
    boxes = torch.cat([corner, corner + sides], dim=1)
    points, heights_found = locate(heat, boxes, LARGEST)
    wanted, wanted_heights = heatmaps_to_keypoints(heat, boxes)
    torch.testing.assert_close(heights_found, wanted_heights, rtol=0, atol=2e-5)
    # Of two pixels whose heights differ by a rounding, either is the highest.
    assert ((points - wanted[..., :2]).abs() < 0.01).all(dim=2).float().mean() > 0.99


def test_boxes_of_less_than_a_pixel_and_padding_have_keypoints_too() -> None:
    heat = heat_maps(torch.Generator().manual_seed(1))[:3]
    boxes = torch.tensor([[5.0, 5, 5.4, 790], [5, 5, 1205, 5.4], [0, 0, 0, 0]])
    points, heights = locate(heat, boxes, LARGEST)
    wanted, wanted_heights = heatmaps_to_keypoints(heat, boxes)
    torch.testing.assert_close(heights, wanted_heights, rtol=0, atol=1e-4)
    torch.testing.assert_close(points, wanted[..., :2], rtol=0, atol=1e-2)


def test_a_peak_at_the_border_of_the_largest_box_is_found() -> None:
    heat = torch.zeros(1, 4, CELLS, CELLS)
    corners = ((0, 0), (0, CELLS - 1), (CELLS - 1, 0), (CELLS - 1, CELLS - 1))
    for keypoint, (row, column) in enumerate(corners):
        heat[0, keypoint, row, column] = 1.0
    boxes = torch.tensor([[0.0, 0, LARGEST[1], LARGEST[0]]])
    points, _ = locate(heat, boxes, LARGEST)
    wanted, _ = heatmaps_to_keypoints(heat, boxes)
    torch.testing.assert_close(points, wanted[..., :2], rtol=0, atol=1e-2)
