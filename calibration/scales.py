"""Scales of activations as a file: bbx's JSON, and the text of TensorRT 8 and 10's calibration caches.

A scale is the step between two neighbouring integers: a tensor's value is `scale * (integer - zero_point)`.

JSON:

    {"schema": "bbx/1", "kind": "scales",
     "scales": {"relu_3": {"scale": 0.0123, "zero_point": 0, "dtype": "int8"}}}

A calibration cache has a line `TRT-8601-EntropyCalibration2` (version and calibrator), then `NAME: HEX` for
each tensor, where HEX is the scale as a big-endian float32. It knows INT8 with zero point 0 only.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bbx import process
from bbx.artifact import disk_errors
from bbx.errors import ArtifactError, UsageError, did_you_mean
from bbx.types import SCHEMA

CACHE_HEADER = "TRT-8601-EntropyCalibration2"
"""First line of the caches that are written: TensorRT 8.6.1's, which 10 reads too."""

_CACHE_LINE = re.compile(r"^(?P<name>.+): (?P<hex>[0-9a-fA-F]{8})$")
_UNNAMED = re.compile(r"^\(Unnamed Layer\*? ?\d+\)")
"""What TensorRT calls tensors of its own making, which no ONNX graph has."""


@dataclass(frozen=True, slots=True)
class TensorScale:
    """How one activation is quantised, as a whole.

    Attributes:
        scale: positive and finite.
        zero_point: the integer that stands for 0.0; zero in symmetric quantisation.
        dtype: of the stored values: `int8`, `uint8`, `float8_e4m3fn`, ….
    """

    scale: float
    zero_point: int = 0
    dtype: str = "int8"


def scales_from_graph(model: ModelProto) -> dict[str, TensorScale]:
    """The scales of a graph's activations: of every QuantizeLinear with one constant scale for its tensor.

    Args:
        model: any graph; its external data need not be loaded, since scales are small.

    Returns:
        By the name of the float tensor that is quantised, in the graph's order. Weights are stored quantised
        and have none here.

    Raises:
        ArtifactError: one of the scales is not positive and finite.
    """
    constants = dict(_constants(model))
    found: dict[str, TensorScale] = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in constants:
            continue
        scale = constants.get(node.input[1])
        if scale is None or scale.size != 1:
            continue
        zero = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        value = _sound(float(scale.reshape(-1)[0]), node.input[0], "The graph")
        found[node.input[0]] = TensorScale(
            value, 0 if zero is None else int(zero.reshape(-1)[0]), _stored_dtype(node, zero)
        )
    return found


def _constants(model: ModelProto) -> Iterator[tuple[str, NDArray[Any]]]:
    """Small constants of the main graph, by name."""
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            yield tensor.name, numpy_helper.to_array(tensor)
    for node in model.graph.node:
        value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            yield node.output[0], numpy_helper.to_array(value)


def _stored_dtype(node: NodeProto, zero: NDArray[Any] | None) -> str:
    if zero is not None:
        return str(zero.dtype)
    named = next((attribute.i for attribute in node.attribute if attribute.name == "output_dtype"), 0)
    # Without a zero point and a type ONNX stores uint8.
    return str(helper.tensor_dtype_to_np_dtype(named)) if named else "uint8"


def write_scales(path: Path, scales: Mapping[str, TensorScale]) -> None:
    """Write scales: as a calibration cache where the name ends in `.cache`, else as JSON.

    Raises:
        ArtifactError: the file cannot be written, or a cache cannot say what the scales are.
        ExhaustedError: the disk is full.
    """
    text = _cache_text(path, scales) if path.suffix == ".cache" else _json_text(scales)
    with disk_errors(path):
        path.write_text(text, encoding="utf-8")


def _json_text(scales: Mapping[str, TensorScale]) -> str:
    entries = {name: asdict(scale) for name, scale in scales.items()}
    return json.dumps({"schema": SCHEMA, "kind": "scales", "scales": entries}, indent=2) + "\n"


def _cache_text(path: Path, scales: Mapping[str, TensorScale]) -> str:
    lines = [CACHE_HEADER]
    for name, scale in scales.items():
        if scale.zero_point != 0 or scale.dtype != "int8":
            raise ArtifactError(
                f"{path} cannot hold the scale of {name!r}: a calibration cache knows INT8 with zero point "
                f"0, and it is {scale.dtype} with zero point {scale.zero_point}.",
                hint=f"Type: {path.with_suffix('.json').name}",
            )
        if "\n" in name:
            raise ArtifactError(f"{path} cannot hold the scale of {name!r}: the name has a line break.")
        lines.append(f"{name}: {struct.pack('>f', scale.scale).hex()}")
    return "\n".join(lines) + "\n"


def read_scale_table(path: Path) -> dict[str, TensorScale]:
    """Read scales that `write_scales` or TensorRT wrote; which of the two is seen from the text.

    Tensors of TensorRT's own making, `(Unnamed Layer* 3) …`, are left out.

    Raises:
        ArtifactError: there is no such file, it is truncated or neither of the two, or a scale is not
            positive and finite.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ArtifactError(f"There is no file {path}.") from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is no text, so it holds no scales.") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    if text.startswith("TRT-"):
        return _from_cache(path, text)
    return _from_json(path, text)


def read_scales(path: Path, *, dtype: str | None = None) -> dict[str, float]:
    """The scales of a symmetric quantisation, by tensor.

    Args:
        dtype: that values are to be stored in; a scale for another one saturates somewhere else. None takes
            any.

    Raises:
        ArtifactError: as `read_scale_table`; a zero point is not zero; or a scale is for another type than
            `dtype`.
    """
    table = read_scale_table(path)
    for name, scale in table.items():
        if scale.zero_point != 0:
            raise ArtifactError(
                f"{path}: {name!r} has the zero point {scale.zero_point}; TensorRT quantises symmetrically.",
                hint="Calibrate again with symmetric activations.",
            )
        if dtype is not None and scale.dtype != dtype:
            raise ArtifactError(
                f"{path}: the scale of {name!r} is for {scale.dtype}, and values will be stored in {dtype}.",
                hint="Calibrate again, or name the scales of that type.",
            )
    return {name: scale.scale for name, scale in table.items()}


def check_scales(scales: Mapping[str, float], quantised: Sequence[str], known: Collection[str]) -> None:
    """Look whether scales are for a graph; those of tensors that it does not quantise get a warning.

    Args:
        scales: by tensor.
        quantised: tensors of the graph that need a scale.
        known: all of its tensors.

    Raises:
        UsageError: there is a scale for a tensor that the graph does not have, or none for one that needs it.
    """
    unknown = [name for name in scales if name not in known]
    if unknown:
        raise UsageError(
            f"{len(unknown)} scales are for tensors that the graph does not have, such as {unknown[0]!r}.",
            hint=did_you_mean(unknown[0], quantised) or "Were they made from another export of the model?",
        )
    unused = [name for name in scales if name not in quantised]
    if unused and len(unused) == len(scales):
        raise UsageError(
            f"None of the {len(scales)} scales is for a tensor that is quantised here.",
            hint=f"Such tensors are {', '.join(map(repr, quantised[:3]))}.",
        )
    if unused:
        process.warn(
            f"{len(unused)} scales are for tensors that are not quantised here, such as {unused[0]!r}; they "
            "are not used."
        )


def _from_cache(path: Path, text: str) -> dict[str, TensorScale]:
    found: dict[str, TensorScale] = {}
    header, *lines = text.splitlines()
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        entry = _CACHE_LINE.match(line)
        if entry is None:
            raise ArtifactError(
                f"{path} is a calibration cache ({header}) and is truncated or damaged: line {number} is "
                f"{line[:60]!r}, and must be a name, a colon and 8 hexadecimal digits.",
                hint="Copy it again, or let TensorRT calibrate again.",
            )
        if not _UNNAMED.match(entry["name"]):
            (value,) = struct.unpack(">f", bytes.fromhex(entry["hex"]))
            _add(found, entry["name"], TensorScale(_sound(value, entry["name"], str(path))), path)
    return _some(found, path)


def _from_json(path: Path, text: str) -> dict[str, TensorScale]:
    try:
        document = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, path))
    except json.JSONDecodeError as error:
        raise ArtifactError(
            f"{path} is truncated, or neither JSON nor a calibration cache: "
            f"{error.msg} at line {error.lineno}.",
            hint="Write it again.",
        ) from error
    if not isinstance(document, dict) or document.get("kind") != "scales":
        raise ArtifactError(f"{path} is JSON, and holds no scales.", hint='It must have "kind": "scales".')
    if document.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{path} is of schema {document.get('schema')!r}, and this bbx reads {SCHEMA}.",
            hint="Write it again with this bbx.",
        )
    entries = document.get("scales")
    if not isinstance(entries, dict):
        raise ArtifactError(f"{path} has no object 'scales'.", hint="Write it again.")
    return _some({name: _entry(path, name, entry) for name, entry in entries.items()}, path)


def _unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        _add(found, name, value, path)
    return found


def _add(found: dict[str, Any], name: str, value: Any, path: Path) -> None:
    if name in found:
        raise ArtifactError(f"{path} has {name!r} twice.", hint="Leave one of them out.")
    found[name] = value


def _entry(path: Path, name: str, entry: Any) -> TensorScale:
    """An entry in full, or the scale alone."""
    entry = {"scale": entry} if isinstance(entry, int | float) else entry
    if (
        not isinstance(entry, dict)
        or "scale" not in entry
        or not entry.keys() <= {"scale", "zero_point", "dtype"}
    ):
        raise ArtifactError(
            f"{path}: the entry of {name!r} must be a number, or have scale, zero_point and dtype."
        )
    scale, zero_point, dtype = entry["scale"], entry.get("zero_point", 0), entry.get("dtype", "int8")
    numbers = isinstance(scale, int | float) and isinstance(zero_point, int) and isinstance(dtype, str)
    if not numbers or isinstance(scale, bool) or isinstance(zero_point, bool):
        raise ArtifactError(f"{path}: the entry of {name!r} is {entry}, and must be numbers and a type.")
    return TensorScale(_sound(scale, name, str(path)), zero_point, dtype)


def _sound(scale: float, name: str, owner: str) -> float:
    """The scale as a float32."""
    value = shown = math.inf
    with contextlib.suppress(OverflowError):  # an integer of JSON, or a number beyond float32
        shown = float(scale)
        (value,) = struct.unpack(">f", struct.pack(">f", shown))
    if not math.isfinite(value) or value <= 0:
        raise ArtifactError(
            f"{owner}: the scale of {name!r} is {shown:g}, and must be positive and finite.",
            hint="Calibrate again; a tensor that is always zero needs no scale.",
        )
    return float(value)


def _some(found: dict[str, TensorScale], path: Path) -> dict[str, TensorScale]:
    if not found:
        raise ArtifactError(f"{path} holds no scales.", hint="Calibrate again.")
    return found
