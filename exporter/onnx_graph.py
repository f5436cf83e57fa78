"""What the typed graph, its emulation and the range scan need to know and do about any ONNX graph.

Graphs come from torch's two exporters and from anybody: any opset, local functions, constants in nodes,
doubles, initialisers that are also inputs. `prepared` brings them into one form; the other functions
answer questions about it. None of them moves weights through protobuf's 2 GiB serialisation limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from bbx.errors import ExportError

_Real = TypeVar("_Real", bound=np.floating)

FLOAT = int(TensorProto.FLOAT)
_SMALL = 1024
"""Elements up to which an initialiser takes part in shape inference as a value, not only as a shape."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Element type (`onnx.TensorProto.DataType`) and shape; None where a size, or the rank, is unknown."""

    elem_type: int
    shape: tuple[int | None, ...] | None


def opset_of(model: ModelProto) -> int:
    """Version of the standard operators that the model is written in.

    Raises:
        ExportError: the model imports none.
    """
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return int(entry.version)
    raise ExportError("The ONNX graph imports no standard operator set.", hint="Export it again.")


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node (If, Loop, Scan) holds."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def captured_names(graph: GraphProto) -> set[str]:
    """Names that the subgraphs of this graph's nodes may read from outside themselves."""
    found: set[str] = set()
    for node in graph.node:
        for inner in subgraphs(node):
            found |= {name for child in inner.node for name in child.input if name}
            found |= {output.name for output in inner.output} | captured_names(inner)
    return found


def prepared(model: ModelProto, *, opset: int) -> ModelProto:
    """A copy in one form: functions inlined, constants dense initialisers, no doubles inside, opset raised.

    The opset is `opset` at least. Tensor names are kept wherever the tensor is. Inputs that are
    initialisers too become initialisers.

    Raises:
        ExportError: the graph's opset cannot be raised.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    if model.graph.sparse_initializer:
        model = _dense(model)
    if opset_of(model) < opset:
        result = _raised(model, opset)
    else:
        result = ModelProto()
        result.CopyFrom(model)
    _lift_constants(result.graph)
    _drop_initialised_inputs(result.graph)
    _single_from_double(result.graph)
    del result.graph.value_info[:]
    return result


def _dense(model: ModelProto) -> ModelProto:
    """A copy whose sparse initialisers are ordinary ones, which every tool and type conversion takes."""
    result = ModelProto()
    result.CopyFrom(model)
    for sparse in result.graph.sparse_initializer:
        values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        array = np.zeros(tuple(sparse.dims), values.dtype)
        places = np.unravel_index(indices, array.shape) if indices.ndim == 1 else tuple(indices.T)
        array[places] = values
        result.graph.initializer.append(numpy_helper.from_array(array, sparse.values.name))
    del result.graph.sparse_initializer[:]
    return result


def _raised(model: ModelProto, opset: int) -> ModelProto:
    """A converted copy: converted with the weights taken out, which are then put back by name."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    bare = weightless(model)
    try:
        converted: ModelProto = onnx.version_converter.convert_version(bare, opset)
    except Exception as error:  # the converter's C++ errors have no common type
        raise ExportError(
            f"The ONNX graph is written for opset {opset_of(model)} and cannot be raised to {opset}: "
            f"{str(error).strip().splitlines()[0]}",
            hint=f"Export it again with opset {opset}.",
        ) from error
    graph = converted.graph
    there = {tensor.name for tensor in graph.initializer}
    taken = [name for name in (value.name for value in graph.input) if name in weights and name not in there]
    _keep(graph.input, lambda value: value.name not in taken)
    graph.initializer.extend(weights[name] for name in taken)
    _copy_metadata(model.graph, graph)
    converted.ir_version = max(converted.ir_version, model.ir_version, 4)
    return converted


def _copy_metadata(source: GraphProto, converted: GraphProto) -> None:
    """Give nodes back what their exporter wrote on them: the converter drops it, and keeps tensors' names."""
    written = {node.output[0]: node.metadata_props for node in source.node if node.output}
    for node in converted.node:
        if node.output and node.output[0] in written:
            node.metadata_props.extend(written[node.output[0]])


def _keep(field: object, wanted: Callable[[ValueInfoProto], bool]) -> None:
    kept = [value for value in field if wanted(value)]  # type: ignore[attr-defined]  # protobuf's container
    del field[:]  # type: ignore[attr-defined]
    field.extend(kept)  # type: ignore[attr-defined]


def _lift_constants(graph: GraphProto) -> None:
    """Turn this graph's Constant nodes that hold numbers into initialisers (not those of subgraphs)."""
    others = []
    for node in graph.node:
        array = _constant(node) if node.op_type == "Constant" and node.domain in ("", "ai.onnx") else None
        if array is None:
            others.append(node)
        else:
            graph.initializer.add().CopyFrom(array)
            graph.initializer[-1].name = node.output[0]
    del graph.node[:]
    graph.node.extend(others)


def _constant(node: NodeProto) -> TensorProto | None:
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        match attribute.name:
            case "value":
                return value if isinstance(value, TensorProto) else None
            case "value_float" | "value_floats":
                return numpy_helper.from_array(np.asarray(value, dtype=np.float32))
            case "value_int" | "value_ints":
                return numpy_helper.from_array(np.asarray(value, dtype=np.int64))
    return None


def _drop_initialised_inputs(graph: GraphProto) -> None:
    initialised = {tensor.name for tensor in graph.initializer}
    _keep(graph.input, lambda value: value.name not in initialised)


def _single_from_double(graph: GraphProto) -> None:
    """Compute in single precision what the graph computes in double; inputs and outputs keep their type."""
    double = int(TensorProto.DOUBLE)
    heads, tails = [], []
    for value in graph.input:
        if value.type.tensor_type.elem_type == double:
            heads.append(helper.make_node("Cast", [value.name], [f"{value.name}_fp32"], to=FLOAT))
            _rename_reads(graph, value.name, f"{value.name}_fp32")
    _single_inside(graph)
    for value in graph.output:
        if value.type.tensor_type.elem_type == double:
            tails.append(helper.make_node("Cast", [f"{value.name}_fp32"], [value.name], to=double))
            _rename_reads(graph, value.name, f"{value.name}_fp32")
            for node in graph.node:
                _replace(node.output, value.name, f"{value.name}_fp32")
    if heads or tails:
        nodes = [*heads, *graph.node, *tails]
        del graph.node[:]
        graph.node.extend(nodes)


def _replace(names: object, old: str, new: str) -> None:
    for index, name in enumerate(names):  # type: ignore[arg-type, var-annotated]  # protobuf's container
        if name == old:
            names[index] = new  # type: ignore[index]


def _rename_reads(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        _replace(node.input, old, new)
        for inner in subgraphs(node):
            _rename_reads(inner, old, new)


def _single_inside(graph: GraphProto) -> None:
    double = int(TensorProto.DOUBLE)
    for tensor in graph.initializer:
        _to_single(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == double:
                attribute.i = FLOAT
            if attribute.type == onnx.AttributeProto.TENSOR:
                _to_single(attribute.t)
        for inner in subgraphs(node):
            del inner.value_info[:]
            for value in (*inner.input, *inner.output):
                if value.type.tensor_type.elem_type == double:
                    value.type.tensor_type.elem_type = FLOAT
            _single_inside(inner)


def _to_single(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.DOUBLE:
        with np.errstate(over="ignore"):
            array = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def emptied(model: ModelProto) -> ModelProto:
    """A copy without nodes, weights and value infos: all else that a model says of itself."""
    result = ModelProto()
    _copy_fields(model, result, {"graph"})
    _copy_fields(model.graph, result.graph, {"node", "initializer", "value_info"})
    return result


def _copy_fields(source: Any, copy: Any, left_out: Set[str]) -> None:
    """Copy what a message has of its fields to another of its type."""
    for field, value in source.ListFields():
        if field.name in left_out:
            continue
        if isinstance(value, int | str):
            setattr(copy, field.name, value)
        else:  # a message or several
            getattr(copy, field.name).MergeFrom(value)


def weightless(model: ModelProto) -> ModelProto:
    """A copy whose large initialisers are inputs of the same type and shape: cheap to check and infer."""
    result = ModelProto(ir_version=max(model.ir_version, 4))
    result.opset_import.extend(model.opset_import)
    result.functions.extend(model.functions)
    graph = result.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    graph.input.extend(model.graph.input)
    given = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims, dtype=np.int64) <= _SMALL:
            graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in given:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return result


def tensor_infos(model: ModelProto) -> dict[str, TensorInfo]:
    """Type and shape of every tensor of the main graph that shape inference can tell, by name."""
    graph = _inferred(model).graph
    found = {tensor.name: TensorInfo(tensor.data_type, tuple(tensor.dims)) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.HasField("tensor_type"):
            found[value.name] = _info(value)
    return found


def _inferred(model: ModelProto) -> ModelProto:
    inferred: ModelProto = onnx.shape_inference.infer_shapes(weightless(model), data_prop=True)
    return inferred


def _info(value: ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorInfo(tensor.elem_type, None)
    return TensorInfo(
        tensor.elem_type,
        tuple(size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim),
    )


def infer_and_check(model: ModelProto) -> None:
    """Fill in `value_info` afresh and prove the graph well formed, types and shapes included.

    Raises:
        ExportError: it is not; says which rule it breaks.
    """
    del model.graph.value_info[:]
    try:
        inferred = _inferred(model)
        onnx.checker.check_model(inferred, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The rewritten ONNX graph is not valid: {str(error).strip()}") from error
    model.graph.value_info.extend(inferred.graph.value_info)


def along_axis(numbers: NDArray[_Real], axis: int | None, rank: int) -> NDArray[_Real]:
    """Scales or zero points in a shape that broadcasts against a weight.

    Args:
        numbers: [channels], or one for all channels.
        axis: of the weight's channels, from the end where negative; any where there is one number.
        rank: of the weight.
    """
    if axis is None or numbers.size == 1:
        return numbers.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return numbers.reshape(shape)


def unique_name(base: str, taken: set[str]) -> str:
    """`base`, or `base` with a number, whichever is free; the name is added to `taken`."""
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name


def all_names(nodes: Iterable[NodeProto]) -> set[str]:
    """Every name of a node or tensor that these nodes and their subgraphs use."""
    found: set[str] = set()
    for node in nodes:
        found |= {node.name, *node.input, *node.output}
        for inner in subgraphs(node):
            found |= all_names(inner.node) | {value.name for value in (*inner.input, *inner.output)}
            found |= {tensor.name for tensor in inner.initializer}
    return found
