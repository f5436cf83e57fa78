"""Suppression without a loop over boxes is greedy suppression, and where it is not it says so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from bbx.models.detection.suppression import BLOCK, PASSES, suppress

LOWERINGS = ("static", "onnx")


def _heap(images: int, count: int, *, seed: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes jittered around few places, sorted by score, with five labels."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(images, 5, 4, generator=generator) * torch.tensor([600.0, 600.0, 150.0, 150.0])
    mine = torch.randint(0, 5, (images, count, 1), generator=generator).expand(-1, -1, 4)
    jitter = torch.randn(images, count, 4, generator=generator)
    centres, sizes = places.gather(1, mine).split(2, dim=2)
    sizes = (sizes + 10) * (spread * jitter[..., :2]).exp()
    centres = centres + spread * sizes * jitter[..., 2:]
    boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=2).clamp(0, 800)
    scores = torch.rand(images, count, generator=generator).sort(dim=1, descending=True).values
    return boxes, scores, torch.randint(0, 5, (images, count), generator=generator)


def _greedy(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """torchvision's answer as a mask."""
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(len(boxes)):
        keep[image, batched_nms(boxes[image], scores[image], labels[image], threshold)] = True
    return keep


def _chain(boxes: int) -> Tensor:
    """Each box overlaps the one before it with an IoU of 0.6, and no other with more than 0.34."""
    left = 25.0 * torch.arange(boxes)
    return torch.stack([left, torch.zeros(boxes), left + 100, torch.full((boxes,), 50.0)], dim=1)


def _falling(count: int) -> Tensor:
    return torch.linspace(1, 0.1, count)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("spread", [0.1, 0.5])
def test_dense_boxes_survive_as_in_torchvision(lowering: str, threshold: float, spread: float) -> None:
    boxes, scores, labels = _heap(3, 1200, seed=1, spread=spread)
    keep, settled = suppress(boxes, scores, labels, threshold, lowering)
    expected = _greedy(boxes, scores, labels, threshold)
    assert 20 < int(expected.sum()) < expected.numel() - 20
    assert torch.equal(keep, expected)
    assert settled.tolist() == [True] * 3


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_without_labels_all_boxes_compete(lowering: str) -> None:
    boxes, scores, _ = _heap(2, 300, seed=2, spread=0.2)
    keep, _ = suppress(boxes, scores, None, 0.5, lowering)
    assert torch.equal(keep, _greedy(boxes, scores, torch.zeros(2, 300, dtype=torch.int64), 0.5))


@pytest.mark.parametrize("links", [PASSES - 1, PASSES, PASSES + 1, 3 * PASSES])
def test_a_chain_is_exact_up_to_the_promised_length_and_says_where_it_is_not(links: int) -> None:
    boxes, scores = _chain(links + 1)[None], _falling(links + 1)[None]
    keep, settled = suppress(boxes, scores, None, 0.5, "static")
    expected, _ = suppress(boxes, scores, None, 0.5, "onnx")
    assert expected[0].tolist() == [index % 2 == 0 for index in range(links + 1)]
    if links <= PASSES:
        assert torch.equal(keep, expected)
    assert bool(settled) == (links < PASSES)
    assert not (expected & ~keep).any()


def test_a_chain_that_is_too_long_leaves_duplicates_and_loses_nothing_in_later_blocks() -> None:
    # What is not settled in the first block overlaps boxes of the second: these must not go on suspicion.
    chain = _chain(3 * PASSES)
    far = torch.tensor([0.0, 1000.0, 100.0, 1050.0]) + 200 * torch.arange(BLOCK)[:, None] * torch.tensor(
        [1.0, 0.0, 1.0, 0.0]
    )
    echo = chain + torch.tensor([0.0, 5.0, 0.0, 5.0])
    boxes = torch.cat([chain, far, echo])[None]
    scores = _falling(boxes.shape[1])[None]
    keep, settled = suppress(boxes, scores, None, 0.5, "static")
    expected, _ = suppress(boxes, scores, None, 0.5, "onnx")
    assert not settled
    assert not (expected & ~keep).any()
    assert (keep & ~expected).any()


def test_a_long_chain_over_many_blocks_is_exact() -> None:
    links = 2 * PASSES
    boxes = torch.arange(4.0 * BLOCK)[:, None] * torch.tensor([0.0, 100.0, 0.0, 100.0]) + torch.tensor(
        [0.0, 1000.0, 50.0, 1050.0]
    )
    boxes[:: 4 * BLOCK // links][: links + 1] = _chain(len(boxes[:: 4 * BLOCK // links][: links + 1]))
    scores = _falling(len(boxes))[None]
    keep, settled = suppress(boxes[None], scores, None, 0.5, "static")
    assert settled
    assert keep[0].nonzero()[:, 0].tolist() == nms(boxes, scores[0], 0.5).sort().values.tolist()
    assert not keep.all()


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_boxes_without_an_area_suppress_nothing(lowering: str) -> None:
    boxes = torch.tensor([[[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10], [0, 0, 10, 0], [0, 0, 10, 10]]])
    keep, settled = suppress(boxes, _falling(5)[None], None, 0.5, lowering)
    assert keep.tolist() == [[True, True, True, True, False]]
    assert settled


def test_padding_changes_no_survivor_and_is_never_unsettled() -> None:
    boxes, scores, labels = _heap(2, 100, seed=3, spread=0.2)
    alone, _ = suppress(boxes, scores, labels, 0.5, "static")
    chain = _chain(5 * PASSES).expand(2, -1, -1)
    padded = torch.cat([boxes, chain], dim=1)
    silent = torch.cat([scores, torch.zeros(2, 5 * PASSES)], dim=1)
    marks = torch.cat([labels, torch.zeros(2, 5 * PASSES, dtype=torch.int64)], dim=1)
    keep, settled = suppress(padded, silent, marks, 0.5, "static")
    assert torch.equal(keep[:, :100], alone)
    assert settled.all()


def test_labels_far_from_zero_cost_no_precision() -> None:
    # In float32, moved apart by label 5000 times the image's size, these coordinates would lose half a pixel.
    boxes = torch.tensor(
        [[[1000.0, 1000, 1010, 1010], [1000, 1000, 1010, 1005.2], [1000, 1000, 1010, 1004.8]]]
    )
    labels = torch.full((1, 3), 5000)
    keep, _ = suppress(boxes, _falling(3)[None], labels, 0.5, "onnx")
    assert keep.tolist() == [[True, False, True]]
