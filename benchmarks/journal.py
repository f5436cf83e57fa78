"""What a benchmark leaves on disk while it runs, so that a crash loses one row at most.

`rows.jsonl` holds one JSON document a line, appended and flushed to the disk as each row ends; the last
line of a key counts. `samples/STEM.npz` holds a row's raw trace (NumPy, compressed): `latency_ns` and
`warm_up_ns`, int64 nanoseconds in the order they were taken.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from bbx.artifact import disk_errors
from bbx.benchmarks.stats import Samples

Document = dict[str, Any]

_HALF = ".tmp"
"""Ending of a trace that is still being written."""


class Journal:
    """The file of finished rows in a benchmark's folder; a trace that a kill left half written goes.

    Args:
        out: that folder; made when it is missing.
        resume: keep the rows that are there; otherwise they are discarded.

    Raises:
        ArtifactError, ExhaustedError: the folder cannot be written, or the disk is full.
    """

    def __init__(self, out: Path, *, resume: bool) -> None:
        self.path = out / "rows.jsonl"
        with disk_errors(self.path):
            out.mkdir(parents=True, exist_ok=True)
            if not resume:
                self.path.unlink(missing_ok=True)
            for half in (out / "samples").glob(f".*{_HALF}"):
                half.unlink(missing_ok=True)

    def read(self) -> dict[str, Document]:
        """The finished rows by key. A line that a crash cut short is no row."""
        rows: dict[str, Document] = {}
        if not self.path.exists():
            return rows
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and isinstance(row.get("key"), str):
                rows[row["key"]] = row
        return rows

    def append(self, row: Document) -> None:
        """Add a finished row and wait until it is on the disk.

        Raises:
            ArtifactError, ExhaustedError: as on creation.
        """
        line = json.dumps(row, allow_nan=False) + "\n"
        with disk_errors(self.path), self.path.open("ab+") as stream:
            if stream.tell() and not self._ends_a_line():
                line = "\n" + line
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())

    def _ends_a_line(self) -> bool:
        with self.path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) == b"\n"


def write_samples(path: Path, samples: Samples, warm_up: Samples) -> None:
    """Write a raw trace; the file is whole or not there.

    Raises:
        ArtifactError, ExhaustedError: the folder cannot be written, or the disk is full.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{_HALF}")
        try:
            with temporary.open("wb") as stream:
                np.savez_compressed(stream, latency_ns=samples, warm_up_ns=warm_up)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def read_samples(path: Path) -> tuple[Samples, Samples]:
    """The trace and the warm-up that `write_samples` wrote."""
    with np.load(path) as stored:
        return stored["latency_ns"], stored["warm_up_ns"]
