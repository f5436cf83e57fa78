"""The images by which a quantised graph is judged, and what is known to be on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal

from bbx import process
from bbx.artifact import Manifest
from bbx.calibration.accuracy import TOP1
from bbx.calibration.data.dataset import CalibrationSet, calibration_set
from bbx.calibration.data.options import CalibrationOptions
from bbx.calibration.data.record import CalibrationRecord, RecordedImage, Split
from bbx.calibration.judged import Batches, Feeds
from bbx.calibration.truth import Truth, truth_of
from bbx.pipeline.cases import guess_preprocess
from bbx.pipeline.typed_parity import task_of
from bbx.types import Postprocess, Preprocess, Task, TensorSpec

JUDGED: dict[Task, int] = {"classification": 48, "detection": 8, "segmentation": 8}
"""Held-out images by which choices are made: each choice runs the network on all of them."""
_ANNOTATED = 32
"""Held-out images of a detector or segmenter on which accuracy is judged by annotations: mAP of few images
says little."""
_ALL = 10**9


@dataclass(frozen=True, slots=True)
class JudgedBy:
    """The images of the accuracy figure.

    Attributes:
        batches: read again for every graph that is scored.
        labels: a classifier's, in the images' order; None where they are not known.
        truth: a detector's or segmenter's annotations; None where there are none.
    """

    batches: Batches
    labels: list[int] | None = None
    truth: Truth | None = None

    @property
    def metric(self) -> str | None:
        """What they are judged by where FP32 is ever right by it; None for agreement."""
        if self.truth is not None:
            return self.truth.metric
        return None if self.labels is None else TOP1


def judged_by(
    asked: CalibrationOptions,
    data: CalibrationSet,
    inputs: tuple[TensorSpec, ...],
    parent: Manifest | None,
) -> JudgedBy:
    """All images of `--eval-data`; without it, those that were held out, of dense tasks the first of them.

    Args:
        data: what is calibrated with.
    """
    preprocess, postprocess = preprocess_of(inputs, parent), parent.postprocess if parent else None
    if asked.evaluation is not None:
        options = CalibrationOptions(asked.evaluation, images=_ALL, seed=asked.seed, batch=asked.batch)
        evaluation = calibration_set(options, inputs, preprocess)
        images = evaluation.images("all")
        return JudgedBy(
            partial(evaluation.batches, split="all"),
            _labels(evaluation.record, images, postprocess),
            truth_of(evaluation.record, images, preprocess, postprocess),
        )
    truth = truth_of(data.record, _first_images(data, _ANNOTATED), preprocess, postprocess)
    task = task_of(parent)
    # A classifier's share of 48 images would move by 2 points with each.
    most = _ALL if task == "classification" else JUDGED[task] if truth is None else _ANNOTATED
    labels = _labels(data.record, _first_images(data, most), postprocess)
    return JudgedBy(partial(first_batches, data, "held_out", most), labels, truth)


def first_batches(data: CalibrationSet, split: Split | Literal["all"], most: int) -> Iterator[Feeds]:
    """As many batches as have at most so many images, and one at least."""
    return islice(data.batches(split=split), _batches(data, most))


def _first_images(data: CalibrationSet, most: int) -> tuple[RecordedImage, ...]:
    """The held-out images of `first_batches`."""
    return data.images("held_out")[: _batches(data, most) * data.record.batch]


def _batches(data: CalibrationSet, most: int) -> int:
    return max(1, most // data.record.batch)


def preprocess_of(inputs: tuple[TensorSpec, ...], parent: Manifest | None) -> Preprocess | None:
    """How an image becomes the input: the manifest knows; of a graph without one it is guessed."""
    return parent.preprocess if parent else guess_preprocess(inputs)


def _labels(
    record: CalibrationRecord, images: Sequence[RecordedImage], postprocess: Postprocess | None
) -> list[int] | None:
    """Class numbers of a classifier's images; None where they are not known for all of them.

    Labels that a list or an array gives are the numbers themselves. Where they do not fit the network,
    `bbx.process.warn` says so.
    """
    if postprocess is not None and postprocess.task != "classification":
        return None
    if not all(len(image.labels) == 1 for image in images):
        return None
    names = [image.labels[0] for image in images]
    if record.source != "folder" and all(name.isdecimal() for name in names):
        return _numbers([int(name) for name in names], postprocess)
    return None if postprocess is None else _numbers_of_names(names, record.classes, postprocess)


def _numbers(numbers: list[int], postprocess: Postprocess | None) -> list[int] | None:
    count = postprocess.num_classes if postprocess else None
    if count is None or max(numbers) < count:
        return numbers
    process.warn(
        f"An image has the label {max(numbers)}, and the network's {count} classes are numbered from 0, so "
        "agreement with FP32 judges."
    )
    return None


def _numbers_of_names(
    names: Sequence[str], classes: Sequence[str], postprocess: Postprocess
) -> list[int] | None:
    """Class folders are known by their names where the network's classes have names.

    Where there are as many as the network has classes, they count in alphabetical order, as in torchvision's
    `ImageFolder`.
    """
    ours = postprocess.classes
    order = ours if ours is not None and set(classes) <= set(ours) else classes
    if len(order) == postprocess.num_classes:
        number = {name: index for index, name in enumerate(order)}
        return [number[name] for name in names]
    if len(classes) > 1:  # one folder of images says nothing about classes
        process.warn(
            f"The images are of {len(classes)} classes, such as {classes[0]!r}, and these are not the "
            f"network's {postprocess.num_classes}, so agreement with FP32 judges."
        )
    return None
