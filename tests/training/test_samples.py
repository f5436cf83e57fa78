"""Order and chance are functions of seed, epoch and index; broken pictures have substitutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bbx.datasets import Dataset, open_dataset
from bbx.training.augment import preparation
from bbx.training.samples import Batch, Collate, Order, Samples
from bbx.types import Preprocess
from tests.training.digits import write_digits

HOW = Preprocess(16, 16)


def _samples(data: Dataset, seed: int = 0, *, substitute: bool = True) -> Samples:
    prepare = preparation("classification", "strong", HOW)
    return Samples(data, prepare, seed, substitute=substitute)


def _indices(order: Order) -> list[int]:
    return [index for batch in order for _, index in batch]


def test_an_epoch_is_a_permutation_of_its_own_and_the_same_again() -> None:
    order = Order(20, 5, seed=3)
    first = _indices(order)
    assert sorted(first) == list(range(20))
    assert _indices(order) == first
    order.set_epoch(1)
    assert sorted(_indices(order)) == list(range(20))
    assert _indices(order) != first
    assert _indices(Order(20, 5, seed=4)) != first


def test_an_epoch_can_be_entered_in_its_middle() -> None:
    order = Order(20, 5, seed=3)
    order.set_epoch(2)
    whole = list(order)
    order.set_epoch(2, start=3)
    assert list(order) == whole[3:]


def test_processes_share_every_batch() -> None:
    alone = list(Order(24, 8, seed=0))
    shares = [list(Order(24, 4, seed=0, rank=rank, world=2)) for rank in (0, 1)]
    together = [sorted(one + two) for one, two in zip(*shares, strict=True)]
    assert together == [sorted(batch) for batch in alone]


@pytest.mark.parametrize(("count", "size", "batches"), [(10, 4, 2), (3, 8, 1), (8, 8, 1)])
def test_what_does_not_fill_a_batch_is_left(count: int, size: int, batches: int) -> None:
    order = Order(count, size, seed=0)
    assert len(order) == batches == len(list(order))
    assert {len(batch) for batch in order} == {min(size, count)}


def test_chance_depends_on_seed_epoch_and_index_alone(digits: Path) -> None:
    data = open_dataset(str(digits), "classification")
    samples = _samples(data)
    first, other = samples[0, 5].image, samples[0, 6].image
    assert first is not None
    assert other is not None
    torch.manual_seed(99)
    assert torch.equal(samples[0, 5].image, first)  # type: ignore[arg-type]
    assert not torch.equal(samples[1, 5].image, first)  # type: ignore[arg-type]
    assert not torch.equal(_samples(data, seed=1)[0, 5].image, first)  # type: ignore[arg-type]


def test_chance_leaves_the_callers_generator_alone(digits: Path) -> None:
    samples = _samples(open_dataset(str(digits), "classification"))
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    _ = samples[0, 0]
    assert torch.equal(torch.rand(3), wanted)


@pytest.fixture
def with_a_broken_one(tmp_path: Path) -> Dataset:
    """Three images, of which the second is cut off."""
    folder = write_digits(tmp_path / "data", [0], most=3)
    path = sorted(folder.rglob("*.png"))[1]
    path.write_bytes(path.read_bytes()[:60])
    return open_dataset(str(folder), "classification")


def test_a_broken_picture_is_named_and_the_next_one_taken(with_a_broken_one: Dataset) -> None:
    sample = _samples(with_a_broken_one)[0, 1]
    assert sample.index == 2
    [(name, why)] = sample.broken
    assert name == with_a_broken_one.name(1)
    assert "cannot be decoded" in why


def test_where_one_is_judged_by_a_broken_picture_has_no_substitute(with_a_broken_one: Dataset) -> None:
    samples = _samples(with_a_broken_one, substitute=False)
    batch: Batch = Collate("classification")([samples[0, index] for index in range(3)])
    assert batch.indices == [0, 2]
    assert batch.images.shape == (2, 3, 16, 16)
    assert list(batch.broken) == [with_a_broken_one.name(1)]
    empty = Collate("classification")([samples[0, 1]])
    assert empty.indices == []
    assert len(empty.broken) == 1


def test_without_chance_a_row_is_that_of_evaluation(digits: Path) -> None:
    from bbx.images import apply

    data = open_dataset(str(digits), "classification")
    sample = Samples(data, preparation("classification", "none", HOW), 0, substitute=True)[3, 7]
    assert sample.image is not None
    assert np.array_equal(sample.image.numpy(), apply(data.image(7), HOW))
    assert (sample.target, sample.size) == (data.target(7), (16, 16))
