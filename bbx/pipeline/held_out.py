"""Images that a calibration held out: what is compared on them is of the kind that the network is for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np

from bbx import process
from bbx.artifact import Manifest
from bbx.calibration.data.dataset import CalibrationSet, Feeds, recorded_set
from bbx.calibration.data.record import read_record
from bbx.errors import ArtifactError, BbxError
from bbx.exporter.verify import Case
from bbx.pipeline.cases import guess_preprocess
from bbx.types import TensorSpec

_NAME = "held-out images"
_OF_CALIBRATION = "images of the calibration"
"""Held out, and those that ranges were measured on."""

_BATCHES = 2


def held_out_of(
    path: Path, manifest: Manifest | None, inputs: tuple[TensorSpec, ...], sizes: Sequence[int] = ()
) -> list[Case]:
    """The held-out images of the calibration that a quantised artefact comes from.

    Where they cannot be had any more, `bbx.process.warn` says so.

    Args:
        path: of the artefact; the calibration's record is looked for beside it, and where it was written.
        manifest: of the artefact.
        sizes: of the batches; see `held_out_cases`.

    Returns:
        Nothing where the artefact is not quantised, was calibrated on noise, or the images are not there.
    """
    calibration = {} if manifest is None else manifest.document.get("calibration", {})
    if not calibration or calibration["random"]:
        return []
    written = Path(calibration["record"])
    beside = path.with_name(written.name)
    record = beside if beside.is_file() else written
    try:
        if read_record(record).sha256 != calibration["manifest_sha256"]:
            raise ArtifactError(f"{record} is of another calibration.")
        preprocess = manifest.preprocess if manifest else None
        data = recorded_set(record, inputs, preprocess or guess_preprocess(inputs))
        return held_out_cases(data, inputs, sizes)
    except BbxError as error:
        process.warn(
            f"{path.name} is compared on photographs and not on what its calibration held out: {error}"
        )
        return []


def held_out_cases(
    data: CalibrationSet, inputs: tuple[TensorSpec, ...], sizes: Sequence[int] = ()
) -> list[Case]:
    """Held-out images in batches.

    Args:
        sizes: a batch of each, the images taken in turn. Where there are not enough, those that ranges were
            measured on come next, since equal rows would not show that a graph mixes them up. By default
            two batches of the calibration's size, and one image alone where the batch is dynamic.
    """
    if sizes:
        return list(_in_turn(data, sizes))
    batches = list(islice(data.batches(split="held_out"), _BATCHES))
    cases = [Case(_rows(batch), _NAME, batch) for batch in batches]
    if all(spec.shape and spec.shape[0] is None for spec in inputs) and _rows(batches[0]) > 1:
        cases.insert(0, Case(1, _NAME, {name: array[:1] for name, array in batches[0].items()}))
    return cases


def _in_turn(data: CalibrationSet, sizes: Sequence[int]) -> Iterator[Case]:
    wanted, held_out = sum(sizes), len(data.images("held_out"))
    images = list(islice(_images(data), wanted))
    start = 0
    for size in sizes:
        chosen = [images[place % len(images)] for place in range(start, start + size)]
        feeds = {name: np.stack([image[name] for image in chosen]) for name in chosen[0]}
        yield Case(size, _NAME if start + size <= held_out else _OF_CALIBRATION, feeds)
        start += size


def _images(data: CalibrationSet) -> Iterator[Feeds]:
    """One by one, the held-out ones first."""
    for batch in chain(data.batches(split="held_out"), data.batches(split="calibration")):
        for row in range(_rows(batch)):
            yield {name: array[row] for name, array in batch.items()}


def _rows(batch: Feeds) -> int:
    return len(next(iter(batch.values())))
