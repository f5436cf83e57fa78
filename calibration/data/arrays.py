"""Calibration data in arrays: `.npy` and `.npz` files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bbx.calibration.data.previews import Preview, digest_of, preview_of_arrays
from bbx.calibration.data.rows import Feeder, Row
from bbx.calibration.data.source import Broken, Entry, Source, SourceKind
from bbx.calibration.data.stored import StoredArray, scratch_folder, stored_arrays
from bbx.datasets.files import few
from bbx.errors import BbxError

LABELS = "labels"
"""Name of an array in an `.npz` that is no input: the label of each row."""


class ArraySource(Source):
    """The rows of the arrays in one file.

    An array that has the dtype and the shape of the input is used as it is; pictures, uint8 N×height×width×3,
    are preprocessed as image files are.

    Raises:
        BbxError: the file cannot be read, holds pickled objects, or does not fit the network.
    """

    kind: SourceKind = "arrays"

    def __init__(self, path: Path, feeder: Feeder) -> None:
        self.root: Path = path.parent
        self._path, self._feeder = path, feeder
        arrays = stored_arrays(path, scratch_folder(self))
        labels = None if LABELS in feeder.names else arrays.pop(LABELS, None)
        self._stored = _by_input(arrays, feeder, path)
        count = _rows(arrays if labels is None else {**arrays, LABELS: labels}, path)
        feeder.require_row(self._row(0), path)
        self.preprocess = feeder.preprocess_of(self._row(0))
        self.entries = tuple(Entry(path.name, row, _label(labels, row)) for row in range(count))

    def preview(self, entry: Entry) -> Preview | Broken:
        """Look at one row, which must be finite; see `Source`."""
        row = self._row(entry.row)
        require_finite(row, f"Row {entry.row} of {self._path}")
        return preview_of_arrays(row)

    def row(self, entry: Entry) -> Row:
        """One row, preprocessed if it is a picture; see `Source`."""
        return self._feeder.of_row(self._row(entry.row))

    def _row(self, index: int | None) -> Row:
        return {name: array.row(index or 0) for name, array in self._stored.items()}


class RowDigests:
    """Hashes of single rows of a file of arrays, as the previews of `ArraySource` have them.

    Raises:
        BbxError: the file cannot be read.
    """

    def __init__(self, path: Path, inputs: tuple[str, ...]) -> None:
        arrays = stored_arrays(path, scratch_folder(self))
        if LABELS not in inputs:
            arrays.pop(LABELS, None)
        only = len(arrays) == len(inputs) == 1
        self._stored = {inputs[0] if only else name: array for name, array in arrays.items()}
        self._count = _rows(arrays, path)

    def of(self, row: int) -> str | None:
        """The hash of a row; None where there is no such row."""
        if row >= self._count:
            return None
        return digest_of({name: array.row(row) for name, array in self._stored.items()})


def _by_input(arrays: Mapping[str, StoredArray], feeder: Feeder, path: Path) -> dict[str, StoredArray]:
    """Arrays by the inputs' names; the only array is the only input's, whatever it is called."""
    if len(arrays) == len(feeder.inputs) == 1:
        return {feeder.names[0]: next(iter(arrays.values()))}
    if path.suffix.lower() == ".npy":
        raise BbxError(
            f"{path} holds one array, and the graph takes {feeder.wanted}.",
            hint="Give an .npz with an array for each input.",
        )
    if set(arrays) != set(feeder.names):
        raise BbxError(
            f"{path} has the arrays {few(sorted(arrays)) or 'none'}, and the graph takes {feeder.wanted}.",
            hint=f"Give an array for each input, and if you like one called {LABELS}.",
        )
    return dict(arrays)


def _rows(arrays: Mapping[str, StoredArray], path: Path) -> int:
    counts = {name: array.shape[0] if array.shape else 0 for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise BbxError(f"The arrays of {path} have different numbers of rows: {text}.")
    count = next(iter(counts.values()), 0)
    if count == 0:
        raise BbxError(f"{path} holds no rows.")
    return count


def _label(labels: StoredArray | None, row: int) -> tuple[str, ...]:
    if labels is None:
        return ()
    value = labels.row(row)
    # Class numbers that were stored as floats are numbers all the same.
    whole = np.issubdtype(np.asarray(value).dtype, np.floating) and float(value).is_integer()
    return (str(int(value) if whole else value),)


def require_finite(row: Mapping[str, NDArray[np.generic]], where: str) -> None:
    """Fail where a row holds NaN or infinity: one such value makes a range, and so the model, worthless.

    Raises:
        BbxError: it does; says what and how often.
    """
    for name, array in row.items():
        if not np.issubdtype(array.dtype, np.floating):
            continue
        finite = np.isfinite(array)
        if not finite.all():
            what = "NaN" if np.isnan(array).any() else "infinity"
            raise BbxError(
                f"{where} holds {what} in {name} ({int(array.size - finite.sum())} of {array.size} values).",
                hint="Leave it out, or find out where it comes from.",
            )
