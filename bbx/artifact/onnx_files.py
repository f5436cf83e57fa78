"""ONNX files from anyone: read so that a graph cannot make its reader open what it should not."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from bbx import lazy
from bbx.artifact.onnx_wire import structure
from bbx.errors import ArtifactError

if TYPE_CHECKING:
    import onnx


def check_external_data(path: Path) -> list[Path]:
    """The external data files of an ONNX graph, each proven to be safe to open; see `checked_graph`."""
    return checked_graph(path)[1]


def checked_graph(path: Path) -> tuple[onnx.ModelProto, list[Path]]:
    """An ONNX graph without its weights, and the files of its external data, proven to be safe to open.

    Each must resolve inside the graph's own folder, to a regular file with a single link: a graph must
    not make its reader open `/etc/shadow`, through a symbolic or a hard link either.

    Raises:
        ArtifactError: the graph cannot be parsed, or names a file that breaks the rule.
    """
    library = lazy.require("onnx")
    try:
        model = structure(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"There is no file {path}.") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # protobuf raises DecodeError, which has no public home
        raise ArtifactError(
            f"{path} is not an ONNX graph, or is truncated: {error}.", hint="Export or copy it again."
        ) from error
    if not model.graph.node:
        raise ArtifactError(f"{path} is not an ONNX graph: it has no nodes.", hint="Export or copy it again.")
    root = path.resolve().parent
    found: dict[str, Path] = {}
    for tensor in library.external_data_helper._get_all_tensors(model):
        if not library.external_data_helper.uses_external_data(tensor):
            continue
        location = library.external_data_helper.ExternalDataInfo(tensor).location
        if location not in found:
            found[location] = _safe_data_file(path, root, location, tensor.name)
    return model, list(found.values())


def _safe_data_file(path: Path, root: Path, location: str, tensor: str) -> Path:
    target = root / location
    if not location or Path(location).is_absolute() or not target.resolve().is_relative_to(root):
        raise ArtifactError(
            f"{path} keeps tensor {tensor!r} in {location!r}, outside its own folder, so it was not opened.",
            hint="Put the data file beside the graph and save the graph again.",
        )
    try:
        status = target.lstat()
    except OSError as error:
        raise ArtifactError(
            f"{path} keeps tensor {tensor!r} in {location!r}, which is not there.",
            hint="Copy the data file beside the graph.",
        ) from error
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise ArtifactError(
            f"{path} keeps tensor {tensor!r} in {location!r}, not a regular file with a single link.",
            hint="Replace the link by a copy of the data file.",
        )
    return target
