"""Pictures in an order that is drawn: a function of the seed, the epoch and the index, of nothing else.

So it does not matter how many processes read them, or whether a run was killed in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from bbx.datasets import Dataset
from bbx.errors import BbxError
from bbx.models.construct import seeded
from bbx.training.augment import Prepare
from bbx.types import Task

Key = tuple[int, int]
"""Epoch and index of an image in its dataset."""

_TRIES = 10
"""Pictures looked at in the place of a broken one."""

_ORDER, _CHANCE = 1, 2
"""What is drawn, so that nothing is drawn alike."""


def drawn_from(*parts: int) -> int:
    """A seed of 63 bits that depends on all of these numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, ready for the network, or why there is none.

    Attributes:
        index: in the dataset; of a substitute, its own.
        size: width and height of the picture.
        image: float32 [3, H, W]; None where no picture could be read.
        target: as `bbx.training.augment.preparation` gives it.
        broken: name of each picture that could not be read, and why.
        refusal: message and hint of what is wrong with a target.
    """

    index: int
    size: tuple[int, int] = (0, 0)
    image: Tensor | None = None
    target: Any = None
    broken: tuple[tuple[str, str], ...] = ()
    refusal: tuple[str, str] | None = None


@dataclass(slots=True)
class Batch:
    """Samples side by side.

    Attributes:
        images: float32 [B, 3, H, W].
        targets: int64 [B] for classification, int64 [B, H, W] for segmentation, and a list of dicts `boxes`,
            `labels`, and `masks` or `keypoints` where they are wanted, for detection.
        indices, sizes: of the samples that are in it.
        broken, refusal: of all that were asked for.
    """

    images: Tensor
    targets: Any
    indices: list[int]
    sizes: list[tuple[int, int]]
    broken: dict[str, str]
    refusal: tuple[str, str] | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        targets = self.targets
        if isinstance(targets, list):
            targets = [{name: value.to(device) for name, value in each.items()} for each in targets]
        else:
            targets = targets.to(device, non_blocking=True)
        return replace(self, images=self.images.to(device, non_blocking=True), targets=targets)


class Samples(TorchDataset[Sample]):
    """A dataset's pictures as rows of a network's input.

    Errors are values here: an exception that leaves a worker process loses its class.

    Args:
        prepare: see `bbx.training.augment.preparation`.
        substitute: give the next picture that can be read for one that cannot.
    """

    def __init__(self, data: Dataset, prepare: Prepare, seed: int, *, substitute: bool) -> None:
        self._data, self._prepare, self._seed = data, prepare, seed
        self._tries = _TRIES if substitute else 1

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        broken: list[tuple[str, str]] = []
        for at in (each % len(self) for each in range(index, index + self._tries)):
            try:
                image = self._data.image(at)
            except BbxError as error:
                broken.append((self._data.name(at), error.message))
                continue
            try:
                target = self._data.target(at)
            except BbxError as error:
                return Sample(at, refusal=(error.message, error.hint))
            try:
                with seeded(drawn_from(_CHANCE, self._seed, epoch, index)):
                    row, made = self._prepare(image, target)
            except BbxError as error:
                return Sample(at, refusal=(f"{self._data.name(at)}: {error.message}", error.hint))
            return Sample(at, image.size, torch.from_numpy(row), made, tuple(broken))
        return Sample(index, broken=tuple(broken))


class Order(Sampler[list[Key]]):
    """The batches of an epoch: a permutation, cut up, each process with its share of every batch.

    What does not fill a batch at the end is left for another epoch, which has another permutation.

    Args:
        count: images there are.
        size: of a batch, in one process.
        rank, world: this process's number, and how many there are.

    Attributes:
        size: of a batch, in one process; less than was asked for where there are too few images.
    """

    def __init__(self, count: int, size: int, seed: int, *, rank: int = 0, world: int = 1) -> None:
        self._count, self._seed = count, seed
        self._rank, self._world = rank, world
        self.size = max(1, min(size, count // world))
        self._epoch = self._start = 0

    def __len__(self) -> int:
        return max(1, self._count // (self.size * self._world))

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Give the batches of this epoch next, from the one at `start` on."""
        self._epoch, self._start = epoch, start

    def __iter__(self) -> Iterator[list[Key]]:
        generator = torch.Generator().manual_seed(drawn_from(_ORDER, self._seed, self._epoch))
        order = torch.randperm(self._count, generator=generator).tolist()
        step = self.size * self._world
        batches = [
            [(self._epoch, index) for index in order[first : first + step][self._rank :: self._world]]
            for first in range(self._start * step, len(self) * step, step)
        ]
        return iter(batches)


class Collate:
    """Samples side by side: what a loader makes of each batch."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """A batch of the samples that have an image."""
        good = [sample for sample in samples if sample.image is not None]
        return Batch(
            torch.stack([sample.image for sample in good if sample.image is not None])
            if good
            else torch.empty(0),
            self._targets([sample.target for sample in good]),
            [sample.index for sample in good],
            [sample.size for sample in good],
            dict(pair for sample in samples for pair in sample.broken),
            next((sample.refusal for sample in samples if sample.refusal is not None), None),
        )

    def _targets(self, targets: list[Any]) -> Any:
        if self._task == "detection":
            return targets
        if self._task == "classification" or not targets:
            return torch.tensor(targets, dtype=torch.int64)
        return torch.stack([torch.from_numpy(mask) for mask in targets])
