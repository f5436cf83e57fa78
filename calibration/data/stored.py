"""Arrays on disk, read row by row: nothing is unpickled, and nothing stays in memory."""

from __future__ import annotations

import shutil
import tempfile
import weakref
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bbx.errors import BbxError


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in a file, in C order.

    Attributes:
        path: the file.
        offset: bytes before the first value.
    """

    path: Path
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    offset: int

    def row(self, index: int) -> NDArray[np.generic]:
        """One row; read and not mapped, so that it does not stay in memory."""
        shape = self.shape[1:]
        count = int(np.prod(shape, dtype=np.int64))
        start = self.offset + index * count * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, count, offset=start).reshape(shape)


def scratch_folder(owner: object) -> Path:
    """An empty folder that is removed together with `owner`."""
    folder = Path(tempfile.mkdtemp(prefix="bbx-calibration-"))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


def stored_arrays(path: Path, scratch: Path) -> dict[str, StoredArray]:
    """The arrays of an `.npy` or `.npz` file, by name; that of an `.npy` has an empty one.

    Args:
        path: the file.
        scratch: an empty folder, into which an `.npz` is unpacked.

    Raises:
        BbxError: it is neither, is truncated, or holds pickled objects.
    """
    if path.suffix.lower() == ".npy":
        return {"": _stored(path, path)}
    try:
        with zipfile.ZipFile(path) as packed:
            members = [name for name in packed.namelist() if name.endswith(".npy")]
            parts = {name.removesuffix(".npy"): Path(packed.extract(name, scratch)) for name in members}
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise BbxError(f"{path} is no whole .npz file: {error}.") from error
    return {name: _stored(part, path) for name, part in parts.items()}


def _stored(part: Path, path: Path) -> StoredArray:
    try:
        mapped = np.lib.format.open_memmap(part, mode="r")
    except (ValueError, OSError, EOFError) as error:
        if "Python objects" in str(error):
            raise BbxError(
                f"{path} holds pickled Python objects, which are programs, and was not loaded.",
                hint="Save plain arrays: numpy.save(path, numpy.stack(images)).",
            ) from error
        raise BbxError(f"{path} is no whole array: {error}.") from error
    if not mapped.flags.c_contiguous:
        raise BbxError(
            f"{path} is stored column by column.", hint="Save numpy.ascontiguousarray(array) instead."
        )
    return StoredArray(part, mapped.dtype, mapped.shape, mapped.offset)
