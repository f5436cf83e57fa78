"""What an ONNX file says of a network, without reading its weights.

Protobuf reads a file whole: for one of 500 MB it copies 500 MB to tell which operators are in it. In the
file a tensor's bytes are one field, and every field says how long it is, so that they can be stepped over.
See https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bbx import lazy

if TYPE_CHECKING:
    import onnx

LARGE = 1 << 16
"""Bytes of a tensor from which on they are left out; shapes, axes and scales are far below it."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def structure(path: Path) -> onnx.ModelProto:
    """An ONNX graph whose large initialisers have a name, a type and a shape, and no values.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is empty, or truncated within what is stepped over.
        google.protobuf.message.DecodeError: it is no ONNX graph otherwise.
    """
    protos = lazy.require("onnx")
    steps = (
        (protos.ModelProto, "graph"),
        (protos.GraphProto, "initializer"),
        (protos.TensorProto, "raw_data"),
    )
    numbers = [proto.DESCRIPTOR.fields_by_name[name].number for proto, name in steps]
    if path.is_file() and not path.stat().st_size:
        raise ValueError("it is empty")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found: onnx.ModelProto = protos.ModelProto.FromString(bytes(_slim(data, 0, len(data), numbers)))
    return found


def _slim(data: mmap.mmap, at: int, end: int, numbers: Sequence[int]) -> bytearray:
    """A message without the field that stands at the end of a path of fields, where it is large."""
    kept = bytearray()
    while at < end:
        tag, value = _varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        body, after = _extent(data, kind, value, end)
        if kind != _BYTES or number != numbers[0]:
            kept += data[at:after]
        elif len(numbers) > 1:
            inner = _slim(data, body, after, numbers[1:])
            kept += data[at:value] + _as_varint(len(inner)) + inner
        elif after - body < LARGE:
            kept += data[at:after]
        at = after
    return kept


def _extent(data: mmap.mmap, kind: int, value: int, end: int) -> tuple[int, int]:
    """Where the content of a field begins, and where the field ends."""
    if kind == _VARINT:
        body, after = value, _varint(data, value, end)[1]
    elif kind == _BYTES:
        length, body = _varint(data, value, end)
        after = body + length
    elif kind in (_FIXED64, _FIXED32):
        body, after = value, value + (8 if kind == _FIXED64 else 4)
    else:
        raise ValueError(f"it has a field of a kind that nobody knows at byte {value}")
    if after > end:
        raise ValueError(f"it ends at byte {end}, in the middle of a field of {after - body} bytes")
    return body, after


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    found = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, at
        shift += 7
    raise ValueError(f"it ends at byte {at}, in the middle of a number")


def _as_varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)
