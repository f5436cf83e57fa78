"""The two datasets of a run: what is learnt from, and what epochs are judged by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bbx.datasets import Boxes, Dataset, fault_of, open_dataset, split, splits_of
from bbx.errors import BbxError, UsageError
from bbx.training.objective import Objective
from bbx.training.options import HELD_OUT, TrainOptions

_ENOUGH = 2
"""Images of a class: one to learn from and one to judge by."""


@dataclass(frozen=True, slots=True)
class Data:
    """What is learnt from, and what epochs are judged by.

    Attributes:
        train: its classes are those of the network.
        val: in the same numbering.
    """

    train: Dataset
    val: Dataset

    def manifest(self) -> dict[str, Any]:
        """How many images there are, and a hash of their names and labels (of masks, the names only)."""
        digest = hashlib.sha256()
        for line in (*_lines(self.train), "", *_lines(self.val)):
            digest.update(f"{line}\n".encode())
        return {"train": len(self.train), "val": len(self.val), "manifest_sha256": digest.hexdigest()}


def _lines(data: Dataset) -> Iterator[str]:
    yield json.dumps(data.classes)
    for index in range(len(data)):
        target = None if data.task == "segmentation" else data.target(index)
        known: Any = target
        if isinstance(target, Boxes):
            known = [target.boxes.tolist(), target.labels.tolist(), target.crowd.tolist()]
            more = [target.outlines, None if target.keypoints is None else target.keypoints.tolist()]
            known += [each for each in more if each is not None]
        yield json.dumps([data.name(index), known])


def open_data(options: TrainOptions) -> Data:
    """Open the data of a run.

    Raises:
        UsageError: it has parts, and none to learn from; or `--val` names nothing.
        BbxError: as `bbx.datasets.open_dataset`; or a class has one image only.
    """
    parts = splits_of(options.data, options.task)
    if parts and "train" not in parts:
        raise UsageError(
            f"{options.data} has the parts {', '.join(parts)}, and none to learn from.",
            hint="Name the folder of the part to learn from, and --val.",
        )
    train = open_dataset(options.data, options.task, split="train" if parts else None)
    _require_classes(train, options.data)
    share = _share(options.val)
    if share is None and options.val is None and "val" not in parts:
        share = HELD_OUT
    if share is not None:
        return Data(*split(train, share, options.seed))
    return Data(train, _named(options, options.val or "val", parts, train.classes))


def require_targets(data: Data, objective: Objective, options: TrainOptions) -> None:
    """Refuse data that lacks what a detector learns from beside boxes.

    Raises:
        BbxError: objects have no keypoints, or not all the same; or one has no outline, or a broken one.
    """
    name = options.spec.name
    hint = "Train a detector of boxes, such as fasterrcnn_r50_fpn."
    if objective.keypoints:
        if not data.train.keypoints:
            raise BbxError(
                f"{name} learns from keypoints, and {options.data} has none, or not the same on all objects.",
                hint=hint,
            )
        if data.train.keypoints != data.val.keypoints:
            raise BbxError("The data to judge by has other keypoints.", hint="Name other data: --val")
    if not objective.outlines:
        return
    for part, index in ((each, index) for each in (data.train, data.val) for index in range(len(each))):
        target = part.target(index)
        assert isinstance(target, Boxes)  # the task is detection
        if target.outlines is None:
            raise BbxError(
                f"{name} learns from outlines, and an object on {part.name(index)} has no `segmentation`.",
                hint=hint,
            )
        fault = next((fault for each in target.outlines if (fault := fault_of(each))), None)
        if fault is not None:
            raise BbxError(f"An outline (`segmentation`) on {part.name(index)} {fault}.")


def _share(val: str | None) -> float | None:
    """The share that `--val` names; None where it names something else."""
    try:
        share = float(val) if val is not None else None
    except ValueError:
        return None
    if share is not None and not 0 < share < 1:
        raise UsageError(f"--val {val} is no share of the data.", hint="Type it like --val 0.2.")
    return share


def _named(options: TrainOptions, val: str, parts: tuple[str, ...], classes: tuple[str, ...]) -> Dataset:
    if val in parts:
        return open_dataset(options.data, options.task, split=val, classes=classes)
    if ":" not in val and not Path(val).exists():
        known = (
            f"{options.data} has the parts {', '.join(parts)}" if parts else f"{options.data} has no parts"
        )
        raise UsageError(
            f"--val {val} is no part of the data and no path; {known}.",
            hint="Type a share to hold out, such as --val 0.2, or a path.",
        )
    return open_dataset(val, options.task, classes=classes)


def _require_classes(data: Dataset, name: str) -> None:
    """Enough classes, and enough images of each to learn from and to judge by."""
    if data.task != "classification":
        return
    if len(data.classes) < 2:
        raise BbxError(
            f"{name} has one class, {data.classes[0]}: there is nothing to tell apart.",
            hint="A classifier needs two class folders, or more.",
        )
    labels = [data.target(index) for index in range(len(data))]
    counts = np.bincount(np.array(labels, dtype=np.int64), minlength=len(data.classes))
    few = [data.classes[label] for label in np.flatnonzero(counts < _ENOUGH)]
    if few:
        raise BbxError(
            f"{name}: {', '.join(few[:4])} {'has' if len(few) == 1 else 'have'} fewer than {_ENOUGH} images.",
            hint="A class needs one to learn from and one to judge by.",
        )
