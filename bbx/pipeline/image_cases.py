"""The inputs of a comparison: the user's own images, or bbx's photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bbx import process
from bbx.calibration.agreement import NOISE
from bbx.calibration.data.dataset import calibration_set
from bbx.calibration.data.options import CalibrationOptions
from bbx.exporter.verify import Case
from bbx.pipeline.cases import guess_preprocess, parity_cases
from bbx.types import Preprocess, Task, TensorSpec

MOST_IMAGES = 32
"""The user's images that are used; of more a sample is drawn."""


def comparison_cases(
    inputs: tuple[TensorSpec, ...],
    preprocess: Preprocess | None,
    batches: tuple[int, ...],
    *,
    images: Path | None,
    task: Task,
    noise: bool,
    image_batches: Sequence[int] = (),
) -> list[Case]:
    """The user's images, or bbx's photographs.

    Args:
        batches: sizes to compare photographs at.
        images: whatever calibration data may be, a folder for example; None for photographs.
        image_batches: sizes to compare `images` at, all of them at each; by default the one of calibration.
        noise: add seeded noise to the photographs. A quantised graph is calibrated for images, so noise says
            nothing about it; a network that takes no image gets noise in any case.

    Raises:
        BbxError: there are too few images, or they do not fit the network.
    """
    if images is not None:
        return image_cases(images, inputs, preprocess, image_batches)
    cases = parity_cases(inputs, preprocess, batches, task=task)
    pictures = [case for case in cases if case.input != NOISE]
    return cases if noise or not pictures else pictures


def image_cases(
    images: Path,
    inputs: tuple[TensorSpec, ...],
    preprocess: Preprocess | None,
    batches: Sequence[int] = (),
) -> list[Case]:
    """At most `MOST_IMAGES` of the user's images, in batches that the network takes.

    Args:
        batches: sizes, where the network does not fix one; see `comparison_cases`.

    Raises:
        BbxError: as `bbx.calibration.data.dataset.calibration_set`.
    """
    options = CalibrationOptions(source=str(images), images=MOST_IMAGES)
    # What is wrong with a set for calibration, such as too few images, does not matter here.
    with process.listening(process.silent):
        data = calibration_set(options, inputs, preprocess or guess_preprocess(inputs))
    return [
        Case(next(len(array) for array in feeds.values()), "images", feeds)
        for batch in batches or (None,)
        for feeds in data.batches(split="all", batch=batch)
    ]
