"""All raw traces of a report in one columnar file, `samples.npz`.

It is what NumPy calls npz, compressed, and holds no pickled object:

- `keys`, `environments`: text [rows], the rows' keys and the fingerprints of their machines;
- `latency_ns`, `warm_up_ns`: int64, nanoseconds in the order they were taken, row after row;
- `latency_offsets`, `warm_up_offsets`: int64 [rows + 1]; row i has the samples from offset i to offset i + 1.

Rows without a trace are not in it.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from bbx.artifact import disk_errors
from bbx.benchmarks.journal import Document, read_samples
from bbx.benchmarks.reports.document import fingerprint_in
from bbx.benchmarks.stats import Samples
from bbx.errors import ArtifactError

NAME = "samples.npz"

_COLUMNS = ("latency", "warm_up")
_INT64 = np.dtype("<i8")

T = TypeVar("T")

Trace = tuple[Samples, Samples]
"""A row's samples and those of its warm-up."""

Traces = Callable[[Document], Trace | None]
"""Gives the trace of a row; None where there is none."""


def traces_in(folder: Path, report: Document) -> Traces:
    """The traces of a report's folder: of each row's own file, or else of `samples.npz`.

    Raises (when it is called):
        ArtifactError: a file is there and cannot be read, or lies outside the folder.
    """
    packed: dict[tuple[str, str], Trace] | None = None

    def trace(row: Document) -> Trace | None:
        nonlocal packed
        if not row["samples"]:
            return None
        path = _inside(folder, row["samples"])
        if path.is_file():
            return _readable(path, lambda: _own_trace(path))
        if packed is None:
            file = folder / NAME
            packed = _readable(file, lambda: read_pack(file)) if file.is_file() else {}
        return packed.get((row["key"], fingerprint_in(report, row)))

    return trace


def _inside(folder: Path, name: str) -> Path:
    """The file of that name in a folder; reports come from other machines, and must not point elsewhere."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"The report in {folder} keeps samples outside its folder: {name}.")
    return path


def _readable(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ArtifactError(
            f"{path} does not hold samples that can be read: {error}.",
            hint="Copy it again, or remove it: the report works without.",
        ) from error


def _own_trace(path: Path) -> Trace:
    """A row's own file, whoever wrote it.

    Raises:
        ValueError: it holds something else than durations.
    """
    trace = read_samples(path)
    for part in trace:
        if part.ndim != 1 or part.dtype.kind not in "iu":
            raise ValueError(f"{part.dtype} {list(part.shape)} where nanoseconds were expected")
    return trace


def write_pack(path: Path, report: Document, traces: Traces) -> None:
    """Write the traces of all rows into one file; it is whole or the old one.

    One row is in memory at a time, because all of them may be more than fits.

    Raises:
        ArtifactError, ExhaustedError: the folder cannot be written, or the disk is full.
    """
    sizes = {index: _sizes(trace) for index, row in enumerate(report["results"]) if (trace := traces(row))}
    rows = [report["results"][index] for index in sizes]
    with disk_errors(path):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive:
                _write_text(archive, "keys", [row["key"] for row in rows])
                _write_text(archive, "environments", [fingerprint_in(report, row) for row in rows])
                for part, name in enumerate(_COLUMNS):
                    offsets = np.cumsum([0, *(size[part] for size in sizes.values())], dtype=_INT64)
                    _write_array(archive, f"{name}_offsets", offsets.shape, offsets.dtype, [offsets])
                    column = (_part(traces, row, part) for row in rows)
                    _write_array(archive, f"{name}_ns", (int(offsets[-1]),), _INT64, column)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def read_pack(path: Path) -> dict[tuple[str, str], Trace]:
    """The traces that `write_pack` wrote, by key and fingerprint."""
    with np.load(path) as stored:
        names = zip(stored["keys"].tolist(), stored["environments"].tolist(), strict=True)
        columns = [
            np.split(stored[f"{name}_ns"], stored[f"{name}_offsets"][1:-1]) if stored["keys"].size else []
            for name in _COLUMNS
        ]
        return dict(zip(names, zip(*columns, strict=True), strict=True))


def _sizes(trace: Trace) -> tuple[int, int]:
    return trace[0].size, trace[1].size


def _part(traces: Traces, row: Document, part: int) -> Samples:
    trace = traces(row)
    assert trace is not None  # only rows with a trace are written
    return trace[part].astype(_INT64)


def _write_text(archive: zipfile.ZipFile, name: str, texts: Sequence[str]) -> None:
    array = np.array(texts, dtype=np.str_)
    _write_array(archive, name, array.shape, array.dtype, [array])


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    parts: Iterable[NDArray[Any]],
) -> None:
    """One array of the archive, whose parts follow one another."""
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
        npy.write_array_header_1_0(stream, header)
        for part in parts:
            stream.write(part.tobytes())
