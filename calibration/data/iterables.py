"""Calibration data given in Python: paths, Pillow images or arrays, read once and kept on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bbx import images
from bbx.calibration.data.arrays import require_finite
from bbx.calibration.data.previews import Preview, preview_of_arrays
from bbx.calibration.data.rows import Feeder, Row
from bbx.calibration.data.source import Broken, Entry, FileSource, Source, SourceKind
from bbx.calibration.data.stored import StoredArray, scratch_folder
from bbx.datasets.files import require_files
from bbx.errors import BbxError

Item = Path | str | Image.Image | NDArray[Any] | Mapping[str, NDArray[Any]]
"""A path; an image; an array that is a picture (uint8 height×width×3) or a row of the input; or arrays by the
inputs' names."""


def iterable_source(items: Iterable[Any], feeder: Feeder) -> Source:
    """Whatever Python iterates over, which has to end: `Item`, or pairs of one and its label.

    Paths are read again when they are needed. Anything else is preprocessed at once, and only the rows of the
    inputs are kept, in a temporary file.

    Raises:
        BbxError: an item is none of `Item` or does not fit the network, or there is none.
    """
    spooled = SpooledSource(feeder)
    paths: list[tuple[Path, tuple[str, ...]]] = []
    for given in items:
        item, labels = (
            (given[0], (str(given[1]),)) if isinstance(given, tuple) and len(given) == 2 else (given, ())
        )
        if isinstance(item, str | Path):
            paths.append((Path(item).absolute(), labels))
        else:
            spooled.add(item, labels)
        if paths and spooled.entries:
            raise BbxError(
                "The calibration data mixes paths with images or arrays.", hint="Give one of them."
            )
    if not paths and not spooled.entries:
        raise BbxError("The calibration data given has no items.", hint="Give paths, images or arrays.")
    return _files(paths, feeder) if paths else spooled


def _files(paths: Sequence[tuple[Path, tuple[str, ...]]], feeder: Feeder) -> FileSource:
    require_files(
        [(f"item {index}", path) for index, (path, _) in enumerate(paths)], "The calibration data has files"
    )
    root = Path(os.path.commonpath([path.parent for path, _ in paths]))
    entries = [Entry(path.relative_to(root).as_posix(), labels=labels) for path, labels in paths]
    return FileSource("list", root, entries, feeder)


class SpooledSource(Source):
    """Rows of inputs in a temporary file."""

    kind: SourceKind = "iterable"
    root = None

    def __init__(self, feeder: Feeder) -> None:
        self.entries: list[Entry] = []
        self._feeder = feeder
        self._file = scratch_folder(self) / "rows"
        self._file.touch()
        self._stored: list[dict[str, StoredArray]] = []
        self._previews: list[Preview] = []

    def add(self, item: Any, labels: tuple[str, ...]) -> None:
        """Preprocess one item and keep its row.

        Raises:
            BbxError: it is none of `Item`, holds NaN or infinity, or does not fit the network.
        """
        where = f"Item {len(self.entries)} of the calibration data"
        given = self._arrays(item, where)
        self._feeder.require_row(given, where)
        require_finite(given, where)
        self.preprocess = self.preprocess or self._feeder.preprocess_of(given)
        self._previews.append(preview_of_arrays(given))
        self._stored.append(self._written(self._feeder.of_row(given)))
        self.entries.append(Entry("item", len(self.entries), labels))

    def _arrays(self, item: Any, where: str) -> Row:
        if isinstance(item, Mapping):
            return {name: np.asarray(array) for name, array in item.items()}
        if isinstance(item, Image.Image):
            self._feeder.require_images(where)
            try:
                item = np.asarray(images.upright_rgb(item))
            except (OSError, ValueError) as error:
                raise BbxError(f"{where} cannot be used as an image: {error}.") from error
        if not isinstance(item, np.ndarray) or len(self._feeder.inputs) != 1:
            raise BbxError(
                f"{where} is of type {type(item).__name__}, and the graph takes {self._feeder.wanted}.",
                hint="Give paths, Pillow images, NumPy arrays, or arrays by the inputs' names.",
            )
        return {self._feeder.names[0]: item}

    def _written(self, row: Row) -> dict[str, StoredArray]:
        stored = {}
        with self._file.open("ab") as stream:
            for name, array in row.items():
                stored[name] = StoredArray(self._file, array.dtype, (1, *array.shape), stream.tell())
                array.tofile(stream)
        return stored

    def preview(self, entry: Entry) -> Preview | Broken:
        """What was seen of the item when it was read; see `Source`."""
        return self._previews[entry.row or 0]

    def row(self, entry: Entry) -> Row:
        """One item's row; see `Source`."""
        return {name: array.row(0) for name, array in self._stored[entry.row or 0].items()}
