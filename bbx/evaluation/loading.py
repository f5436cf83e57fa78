"""Images in batches, decoded and preprocessed on other threads, beside a network or in turns with it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bbx import images
from bbx.datasets import Dataset, Target
from bbx.errors import BbxError
from bbx.types import Preprocess

WORKERS = min(8, os.cpu_count() or 1)
"""Threads that decode; Pillow and zlib let go of the interpreter while they work."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image that cannot be decoded."""

    image: str
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Images that are ready for a network.

    Attributes:
        rows: the network's input.
        names: of the images.
        sizes: (width, height) of each before preprocessing.
        targets: what is on each, in the data's numbering.
        skipped: those that belonged here and cannot be decoded.
    """

    rows: NDArray[np.generic]
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    targets: tuple[Target, ...]
    skipped: tuple[Skipped, ...]


def batches(
    dataset: Dataset,
    how: Preprocess,
    batch: int,
    pool: ThreadPoolExecutor,
    *,
    ahead: int,
    in_bursts: bool = False,
) -> Iterator[Batch]:
    """All images of a dataset in its order, at most `batch` at a time.

    Each batch is made by one thread; so many are made at once as the pool has threads, and no more than
    `ahead` wait to be taken; see `in_order` for bursts.

    Raises:
        BbxError: a label cannot be read.
    """
    parts = [range(start, min(start + batch, len(dataset))) for start in range(0, len(dataset), batch)]

    def make(part: range) -> Batch:
        return _batch(dataset, how, part)

    return in_order(make, parts, pool, ahead=ahead, in_bursts=in_bursts)


def in_order(
    work: Callable[[T], R],
    items: Iterable[T],
    pool: ThreadPoolExecutor,
    *,
    ahead: int,
    in_bursts: bool = False,
) -> Iterator[R]:
    """As `map`, on a pool, with at most `ahead` items begun and not taken.

    `ThreadPoolExecutor.map` begins all of them at once, and keeps what nobody has taken yet.

    Args:
        in_bursts: work and taking take turns: `ahead` items are finished before the first is taken, and none
            is begun before the last of them is done with. For takers that use all cores themselves: their
            threads wait for the slowest, so that one core taken from them stops the others too.
    """
    left = iter(items)
    begun: deque[Future[R]] = deque()

    def begin(count: int) -> None:
        begun.extend(pool.submit(work, item) for item in islice(left, count))

    begin(ahead)
    try:
        while begun:
            if in_bursts:
                wait(begun)
            done = begun.popleft().result()
            if not in_bursts:
                begin(1)
            yield done
            if not begun:
                begin(ahead)
    finally:
        for future in begun:
            future.cancel()


def _batch(dataset: Dataset, how: Preprocess, part: range) -> Batch:
    rows: list[NDArray[np.generic]] = []
    sizes: list[tuple[int, int]] = []
    kept: list[int] = []
    skipped: list[Skipped] = []
    for index in part:
        try:
            image = dataset.image(index)
        except BbxError as error:
            skipped.append(Skipped(dataset.name(index), error.message))
            continue
        rows.append(images.apply(image, how))
        sizes.append(image.size)
        kept.append(index)
    empty: tuple[int | Any, ...] = (0, *how.input_shape[1:])
    return Batch(
        rows=np.stack(rows) if rows else np.zeros(empty, dtype=how.dtype),
        names=tuple(dataset.name(index) for index in kept),
        sizes=tuple(sizes),
        targets=tuple(dataset.target(index) for index in kept),
        skipped=tuple(skipped),
    )
