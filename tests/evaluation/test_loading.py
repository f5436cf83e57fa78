"""Batches made on other threads: in order, bounded, and without the broken ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from bbx.datasets import Dataset
from bbx.errors import BbxError
from bbx.evaluation.loading import batches, in_order
from bbx.types import Preprocess

HOW = Preprocess(8, 8, fit="stretch", dtype="uint8", layout="NHWC")


class Greys(Dataset):
    """Pictures of one grey each, which say their number; some are broken."""

    task = "classification"
    classes = ("grey",)

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        self._count, self._broken = count, broken

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"{index}.png"

    def image(self, index: int) -> Image.Image:
        time.sleep(0.002 * (index % 3))  # so that threads end in another order than they began
        if index in self._broken:
            raise BbxError(f"{index}.png is broken.")
        return Image.new("RGB", (10, 20), (index, index, index))

    def target(self, index: int) -> int:
        return index


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads."""
    with ThreadPoolExecutor(4) as made:
        yield made


def test_batches_keep_the_order_and_leave_broken_images_out(pool: ThreadPoolExecutor) -> None:
    made = list(batches(Greys(10, broken=(2, 8, 9)), HOW, 4, pool, ahead=3))
    assert [part.targets for part in made] == [(0, 1, 3), (4, 5, 6, 7), ()]
    assert [part.rows[:, 0, 0, 0].tolist() for part in made] == [[0, 1, 3], [4, 5, 6, 7], []]
    assert [each.image for part in made for each in part.skipped] == ["2.png", "8.png", "9.png"]
    assert made[0].sizes == ((10, 20),) * 3
    assert made[2].rows.shape == (0, 8, 8, 3)
    assert made[2].rows.dtype == np.uint8


def test_no_more_is_begun_than_was_asked_for(pool: ThreadPoolExecutor) -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def work(number: int) -> int:
        with lock:
            begun.append(number)
        return number

    taken = 0
    for number in in_order(work, range(50), pool, ahead=5):
        assert number == taken
        taken += 1
        time.sleep(0.001)
        assert len(begun) <= taken + 5
    assert taken == 50


def test_bursts_are_over_before_the_first_is_taken(pool: ThreadPoolExecutor) -> None:
    begun: list[int] = []
    ended: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.002 * (number % 3))
        ended.append(number)
        return number

    taken = []
    for number in in_order(work, range(11), pool, ahead=4, in_bursts=True):
        burst = min(number // 4 * 4 + 4, 11)
        assert len(ended) == burst
        time.sleep(0.005)  # long enough for a worker to begin what it must not
        assert len(begun) == burst
        taken.append(number)
    assert taken == list(range(11))


def test_an_error_in_a_burst_ends_it(pool: ThreadPoolExecutor) -> None:
    def work(number: int) -> int:
        if number == 5:
            raise BbxError("the sixth")
        return number

    taken = in_order(work, range(11), pool, ahead=4, in_bursts=True)
    assert [next(taken) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(BbxError, match="the sixth"):
        next(taken)


def test_an_error_ends_it_and_what_waits_is_not_begun() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.02)
        if number == 0:
            raise BbxError("the first")
        return number

    with ThreadPoolExecutor(1) as single, pytest.raises(BbxError, match="the first"):
        list(in_order(work, range(1000), single, ahead=20))
    assert len(begun) < 5
