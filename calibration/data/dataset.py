"""Calibration data: a sample of a source, recorded, and read batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bbx import artifact, process
from bbx.calibration.data.iterables import iterable_source
from bbx.calibration.data.lint import Finding, Seen, findings
from bbx.calibration.data.opening import open_source
from bbx.calibration.data.options import CalibrationOptions
from bbx.calibration.data.record import (
    Annotations,
    CalibrationRecord,
    RecordedImage,
    SkippedImage,
    Split,
    verify_record,
)
from bbx.calibration.data.rows import Feeder, Row
from bbx.calibration.data.sample import WORKERS, divided, drawn, looked_at, whole_batches
from bbx.calibration.data.source import Broken, NoiseSource, Source
from bbx.errors import BbxError, UsageError
from bbx.types import Preprocess, TensorSpec

Feeds = dict[str, NDArray[np.generic]]
"""A batch of each input, by the input's name."""


class CalibrationSet:
    """The images that a calibration sees; made by `calibration_set`.

    Attributes:
        record: which they are, and what is wrong with them.
    """

    def __init__(self, source: Source, record: CalibrationRecord) -> None:
        self.record = record
        self._source = source

    def __len__(self) -> int:
        return len(self.record.images)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the lint found."""
        return self.record.findings

    def images(self, split: Split | Literal["all"] = "all") -> tuple[RecordedImage, ...]:
        """The images of a part in the order of `batches`; `all` begins with those to measure."""
        if split == "all":
            return (*self.images("calibration"), *self.images("held_out"))
        return tuple(image for image in self.record.images if image.split == split)

    def batches(
        self, *, split: Split | Literal["all"] = "calibration", batch: int | None = None
    ) -> Iterator[Feeds]:
        """Feeds for the network, as often as they are asked for and always in the same order.

        One batch is in memory at a time. The last may be smaller, unless the graph fixes its batch.

        Args:
            split: what to measure (`calibration`), what to choose methods by (`held_out`), or both.
            batch: images a run, where the graph does not fix them; by default those of the record.

        Raises:
            BbxError: an image cannot be read any more, or the images of a batch differ in shape.
        """
        images, count = self.images(split), batch or self.record.batch
        with ThreadPoolExecutor(WORKERS) as pool:
            for start in range(0, len(images), count):
                yield _stacked(list(pool.map(self._row, images[start : start + count])))

    def _row(self, image: RecordedImage) -> Row:
        return self._source.row(image.entry)


def calibration_set(
    options: CalibrationOptions,
    inputs: tuple[TensorSpec, ...],
    preprocess: Preprocess | None,
    *,
    data: Iterable[Any] | None = None,
) -> CalibrationSet:
    """Draw a sample, look at every image in it once, and record it; nothing of it stays in memory.

    Broken images and findings that are warnings are also told by `bbx.process.warn`.

    Args:
        options: the source, and how much of it.
        inputs: of the network.
        preprocess: how an image becomes its only input; None where nobody said, and then arrays are needed.
        data: in place of `options.source`: paths, Pillow images or arrays; see `iterable_source`.

    Raises:
        UsageError: there is no data, or there are two sources.
        ArtifactError: the source is a record, and its images have changed.
        BbxError: the data cannot be used; says why, and names the images.
    """
    feeder = Feeder(inputs, preprocess)
    source, given = _opened(options, feeder, data)
    chosen = _drawn(source, options) if given is None else _again(source, given)
    if feeder.batch is not None:
        chosen = replace(chosen, parts=whole_batches(chosen.parts, feeder.batch), batch=feeder.batch)
    record = _record(chosen, source, inputs, _findings(chosen, source, options, feeder))
    for finding in record.findings:
        if finding.severity == "warning" or finding.kind == "skipped":
            process.warn(f"Calibration data: {finding.text} {finding.remedy}")
    return CalibrationSet(source, record)


def recorded_set(path: Path, inputs: tuple[TensorSpec, ...], preprocess: Preprocess | None) -> CalibrationSet:
    """The images of a record, which were looked at when it was made: here they are only hashed.

    Args:
        path: of the record.
        inputs: of the network; as for `calibration_set`.
        preprocess: as for `calibration_set`.

    Raises:
        ArtifactError: it is no record, or its images have changed.
        BbxError: the data cannot be used.
    """
    source, _ = open_source(path, Feeder(inputs, preprocess))
    return CalibrationSet(source, verify_record(path))


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Which images are used, and what is to be recorded about how they were chosen."""

    parts: list[tuple[Seen, Split]]
    skipped: tuple[SkippedImage, ...]
    classes: tuple[str, ...]
    found: int
    seed: int
    batch: int


def _opened(
    options: CalibrationOptions, feeder: Feeder, data: Iterable[Any] | None
) -> tuple[Source, CalibrationRecord | None]:
    if data is not None:
        if options.source is not None:
            raise UsageError(f"Calibration data was given twice: in Python, and as {options.source}.")
        return iterable_source(data, feeder), None
    if options.source is None:
        if not options.allow_random:
            raise UsageError(
                "Calibration needs images, and none were given.",
                hint="Type --calib FOLDER with images like those that the model will meet, or --allow-random "
                "to try it with noise.",
            )
        return NoiseSource(options.images, options.seed, feeder), None
    source, record = open_source(Path(options.source), feeder)
    if record is None:
        return source, None
    if record.random and not options.allow_random:
        raise UsageError(
            f"{options.source} records noise and no images.",
            hint="Type --allow-random to use it all the same.",
        )
    return source, verify_record(Path(options.source))


def _drawn(source: Source, options: CalibrationOptions) -> _Chosen:
    sample = drawn(source, options.images, options.seed)
    return _Chosen(
        parts=divided(sample.seen, options.seed),
        skipped=sample.skipped,
        classes=tuple(sorted({label for entry in source.entries for label in entry.labels})),
        found=len(source.entries),
        seed=options.seed,
        batch=options.batch,
    )


def _again(source: Source, record: CalibrationRecord) -> _Chosen:
    """The images of a record, whose hashes were found right."""
    looks = looked_at(source, [image.entry for image in record.images])
    parts: list[tuple[Seen, Split]] = []
    for image, (entry, look) in zip(record.images, looks, strict=True):
        if isinstance(look, Broken):
            raise BbxError(f"{look.reason} It is in the record, and unchanged.")
        parts.append((Seen(entry, look), image.split))
    return _Chosen(
        parts=parts,
        skipped=record.skipped,
        classes=record.classes,
        found=record.found,
        seed=record.seed,
        batch=record.batch,
    )


def _findings(
    chosen: _Chosen, source: Source, options: CalibrationOptions, feeder: Feeder
) -> tuple[Finding, ...]:
    evaluation = None
    if options.evaluation is not None:
        judged, _ = open_source(Path(options.evaluation), feeder)
        looks = looked_at(judged, judged.entries)
        evaluation = [Seen(entry, look) for entry, look in looks if not isinstance(look, Broken)]
    return findings(
        [seen for seen, _ in chosen.parts],
        classes=chosen.classes,
        skipped=[each.path for each in chosen.skipped],
        evaluation=evaluation,
        random=source.kind == "random",
    )


def _record(
    chosen: _Chosen, source: Source, inputs: tuple[TensorSpec, ...], found: tuple[Finding, ...]
) -> CalibrationRecord:
    return CalibrationRecord(
        source=source.kind,
        random=source.kind == "random",
        root=None if source.root is None else str(source.root.absolute()),
        annotations=_annotations(source),
        inputs=inputs,
        preprocess=source.preprocess,
        seed=chosen.seed,
        batch=chosen.batch,
        found=chosen.found,
        classes=chosen.classes,
        images=tuple(_recorded(seen, split) for seen, split in chosen.parts),
        skipped=chosen.skipped,
        findings=found,
    )


def _annotations(source: Source) -> Annotations | None:
    if source.annotations is None or source.root is None:
        return None
    path = Path(os.path.relpath(source.annotations, source.root)).as_posix()
    return Annotations(path=path, sha256=artifact.sha256_of(source.annotations))


def _recorded(seen: Seen, split: Split) -> RecordedImage:
    entry = seen.entry
    return RecordedImage(
        path=entry.path, row=entry.row, sha256=seen.preview.sha256, split=split, labels=entry.labels
    )


def _stacked(rows: Sequence[Row]) -> Feeds:
    try:
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    except ValueError as error:
        shapes = sorted({str(array.shape) for row in rows for array in row.values()})
        raise BbxError(
            f"The images of a batch differ in shape: {', '.join(shapes)}.", hint="Use a batch of 1."
        ) from error
