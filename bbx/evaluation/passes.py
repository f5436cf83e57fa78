"""One artefact over all images of a dataset: decoded ahead, computed, judged behind."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bbx import process
from bbx.datasets import IGNORED, Boxes, Dataset, Target
from bbx.datasets.files import require_few_broken
from bbx.errors import BbxError
from bbx.evaluation.loading import WORKERS, Batch, Skipped, batches
from bbx.evaluation.metrics import Tally, tally_of
from bbx.evaluation.naming import numbers_of
from bbx.evaluation.subjects import Opened
from bbx.outputs import Outputs, restore

_AHEAD = 2
"""Batches a thread that are begun before the network has taken them."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What came of one artefact on all images.

    Attributes:
        tally: what it answered, judged.
        classes: the names of its classes, in its numbering.
        skipped: images that cannot be decoded.
        images_per_s: from the first answers on; from the start where there were no more.
    """

    tally: Tally[Any]
    classes: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    images_per_s: float


def passed(
    opened: Opened, dataset: Dataset, *, batch: int, label: str, classes: Sequence[str] | None = None
) -> Pass:
    """Run all images of a dataset through an artefact, and judge its answers.

    Args:
        batch: images at a time, for an artefact that takes any number.
        label: what to call it while it runs.
        classes: the network's classes as the data calls them; None for what the artefact says.

    Raises:
        BbxError: more than 1 % of the images are broken, a label cannot be read, or the classes of the data
            are not those of the network.
    """
    means = opened.postprocess
    numbers, names = _numbering(opened, dataset, classes)
    tally = tally_of(dataset.task, len(names))

    def judge(part: Batch, outputs: Outputs) -> list[Any]:
        results = restore(outputs, opened.preprocess, means, part.sizes)
        targets = [renumbered(target, numbers) for target in part.targets]
        return [_looked(tally, *each) for each in zip(part.names, results, targets, strict=True)]

    skipped: list[Skipped] = []
    ahead = _AHEAD * WORKERS
    # A network on the CPU has all cores to itself while it computes; beside one on a GPU they are idle.
    at_once = ahead if opened.runner.device == "cpu" else 1
    with ThreadPoolExecutor(WORKERS) as pool:
        answered: list[tuple[Batch, Outputs]] = []
        waiting: deque[Future[list[Any]]] = deque()
        clock = _Clock(at_once)
        size = opened.fixed_batch or batch
        for part in batches(dataset, opened.preprocess, size, pool, ahead=ahead, in_bursts=at_once > 1):
            skipped += part.skipped
            require_few_broken([each.reason for each in skipped], among=len(dataset), cannot_be="used")
            if part.names:
                answered.append((part, opened.infer(part.rows)))
                clock.computed(len(part.names))
            if len(answered) >= at_once:
                waiting.extend(pool.submit(judge, *each) for each in answered)
                answered.clear()
            _collect(tally, waiting, most=ahead)
            process.progress("evaluate", clock.images / len(dataset), label)
        waiting.extend(pool.submit(judge, *each) for each in answered)
        _collect(tally, waiting, most=0)
        rate = clock.images_per_s()
    return Pass(tally, names, tuple(skipped), rate)


def renumbered(target: Target, numbers: NDArray[np.int64]) -> Target:
    """A target in the numbering of a network.

    Args:
        numbers: int64 [C], the network's number of each class of the data.
    """
    if isinstance(target, Boxes):
        return replace(target, labels=numbers[target.labels])
    if isinstance(target, np.ndarray):
        table = np.full(256, IGNORED, dtype=np.uint8)
        table[: len(numbers)] = numbers
        table[IGNORED] = IGNORED
        return np.asarray(table[target])
    return int(numbers[target])


class _Clock:
    """Images over time.

    The first batches are not counted: in the first a runtime may still set itself up, and those that were
    decoded together with it cost nothing any more.
    """

    def __init__(self, uncounted: int) -> None:
        self.images = 0
        self._uncounted = uncounted
        self._begun = self._from = time.perf_counter()
        self._before = 0

    def computed(self, count: int) -> None:
        self.images += count
        if self._uncounted:
            self._uncounted -= 1
            self._from, self._before = time.perf_counter(), self.images

    def images_per_s(self) -> float:
        end = time.perf_counter()
        if self._uncounted or self.images == self._before:
            return self.images / (end - self._begun)
        return (self.images - self._before) / (end - self._from)


def _numbering(
    opened: Opened, dataset: Dataset, classes: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The network's number of each class of the data, and its own names, or the data's where it has none."""
    means = opened.postprocess
    count = means.num_classes
    if means.task != dataset.task:
        raise BbxError(f"The network is for {means.task}, and the data for {dataset.task}.")
    if count is None:
        raise BbxError("The network gives features and no classes.", hint="Export it with a head.")
    if classes is not None and len(classes) != count:
        raise BbxError(f"--classes names {len(classes)} classes, and the network has {count}.")
    known = classes or means.classes
    if not dataset.named and len(dataset.classes) <= count:
        numbers = np.arange(len(dataset.classes))  # numbers without names can only be the network's
    else:
        numbers = numbers_of(dataset.classes, known, count)
    names = list(known or map(str, range(count)))
    if known is None and dataset.named:
        for number, name in zip(numbers, dataset.classes, strict=True):
            names[number] = name
    return numbers, tuple(names)


def _looked(tally: Tally[Any], name: str, result: Any, target: Target) -> Any:
    try:
        return tally.look(result, target)
    except BbxError as error:
        raise BbxError(f"{name}: {error.message}", hint=error.hint) from error


def _collect(tally: Tally[Any], waiting: deque[Future[list[Any]]], *, most: int) -> None:
    """Add what is judged, in the order of the images, until at most so many batches wait."""
    while len(waiting) > most:
        for look in waiting.popleft().result():
            tally.add(look)
