"""What every task's metrics have in common: a tally that images are added to, one after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from bbx.datasets import Target
from bbx.outputs import Result

Scores = dict[str, float]
"""Metrics by name, each a share from 0 to 1."""

Counts = NDArray[np.int64]
"""[R, N]: how often each of N images was drawn, with replacement, in each of R samples of N images."""

Look = TypeVar("Look")
"""What a tally keeps of one image."""


@dataclass(frozen=True, slots=True)
class Flips:
    """How many single decisions differ between two answers to the same images.

    Attributes:
        of: decisions: images, annotated objects or judged pixels.
        right_to_wrong: right by the first, wrong by the second.
        wrong_to_right: the other way about.
        wrong_to_wrong: wrong by both, and not the same answer.
    """

    of: int
    right_to_wrong: int
    wrong_to_right: int
    wrong_to_wrong: int


class Tally(ABC, Generic[Look]):
    """Adds up how right answers are.

    `look` is pure and may run on any thread; `add` takes what it gave, in the order of the images. Errors are
    judged in the end, and never dropped: an answer that is not a number is a wrong one.

    Attributes:
        primary: the metric that stands for the task.
        lower_is_better: metrics of which less is better.
    """

    primary: str
    lower_is_better: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.looks: list[Look] = []

    def __len__(self) -> int:
        """How many images were added."""
        return len(self.looks)

    @abstractmethod
    def look(self, result: Result, target: Target) -> Look:
        """What there is to say of one image."""

    def add(self, look: Look) -> None:
        """Add an image that `look` has seen."""
        self.looks.append(look)

    def update(self, results: Sequence[Result], targets: Sequence[Target]) -> None:
        """Add a batch of images.

        Args:
            results: what the network says of each, as `bbx.outputs.restore` gives it.
            targets: what is on each, in the network's numbering.
        """
        for result, target in zip(results, targets, strict=True):
            self.add(self.look(result, target))

    @abstractmethod
    def result(self) -> Scores:
        """The metrics over all images that were added."""

    @abstractmethod
    def per_class(self) -> dict[int, dict[str, float]]:
        """What is known of each class that occurs, by its number."""

    @abstractmethod
    def resampled(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """The metrics over samples of the images.

        Returns:
            float64 [R], by the names of `result`; a metric may be missing.
        """

    @abstractmethod
    def flips(self, other: Tally[Look]) -> Flips:
        """How single decisions changed from this tally to another of the same images."""

    def confusion(self) -> NDArray[np.int64] | None:
        """int64 [C, C]: what is judged by its class (row) and the answered class (column); None for boxes."""
        return None

    def cautions(self) -> list[str]:
        """What is wrong with the answers themselves, whatever was asked; nothing where nothing is."""
        return []


def ratio(above: NDArray[Any] | float, below: NDArray[Any] | float) -> NDArray[np.float64]:
    """Division that gives NaN, silently, where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.divide(above, below), dtype=np.float64)
