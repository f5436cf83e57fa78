"""ONNX files: writing them past protobuf's limit, checking them, and what goes in and out of a graph."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

from bbx.errors import ExportError
from bbx.types import BYTES_PER_ELEMENT, TensorSpec

PROTOBUF_LIMIT = 2 * 1024**3 - 64 * 1024**2
"""Bytes of weights above which a graph keeps them in a file of its own (protobuf ends at 2 GiB)."""


_INLINE_BYTES = 1024
"""Weights of fewer bytes stay in the graph."""


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph; with weights over protobuf's limit, those go to `path`'s name plus `.data`."""
    # Tensor by tensor: protobuf cannot even say how large a message is that it cannot write.
    large = sum(tensor.ByteSize() for tensor in model.graph.initializer) > PROTOBUF_LIMIT
    if not large:
        onnx.save(model, str(path))
    else:
        spill_onnx(model, path)
        onnx.load_external_data_for_model(model, str(path.parent))
        for tensor in model.graph.initializer:
            tensor.ClearField("data_location")  # which is written out where it was not before


def spill_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph that nobody needs afterwards, without a second copy of its weights in memory.

    They go out of it, one by one, to `path`'s name plus `.data`, which is written anew.
    """
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)  # onnx appends to what is there
    # Not by `onnx.save`'s own option: that refuses when the folder one works in has a file of this name.
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= _INLINE_BYTES:
            set_external_data(tensor, data.name)
    onnx.save(model, str(path))


def graph_specs(
    model: onnx.ModelProto, subject: str = "The graph"
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs (initialisers left out) and outputs of a graph.

    Args:
        subject: what the graph is called in an error.

    Raises:
        ExportError: one of them is no tensor of numbers.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_spec(value, subject) for value in model.graph.input if value.name not in weights)
    return inputs, tuple(_spec(value, subject) for value in model.graph.output)


def _spec(value: onnx.ValueInfoProto, subject: str) -> TensorSpec:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.elem_type:
        raise ExportError(f"{subject}: {value.name!r} is no tensor, and bbx takes graphs of tensors only.")
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    named = {
        "float": "float32",
        "double": "float64",
        "float8e4m3fn": "float8_e4m3fn",
        "float8e5m2": "float8_e5m2",
    }
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    if named.get(dtype, dtype) not in BYTES_PER_ELEMENT:
        raise ExportError(f"{subject}: {value.name!r} is a tensor of type {dtype}, which bbx does not run.")
    return TensorSpec(value.name, named.get(dtype, dtype), shape)


def check_onnx(path: Path) -> None:
    """The ONNX checker and strict shape inference on the file.

    Raises:
        ExportError: what they object to.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The ONNX checker refuses {path.name}: {str(error).splitlines()[0]}") from error
