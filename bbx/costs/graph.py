"""Costs of an ONNX graph, from its shapes: no weight is read and nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from bbx.artifact import checked_graph
from bbx.costs.layers import Costs, Layer, Volume, volume
from bbx.costs.liveness import Use, peak_bytes
from bbx.errors import ArtifactError
from bbx.exporter.onnx_graph import TensorInfo, subgraphs, tensor_infos, weightless
from bbx.exporter.onnx_io import graph_specs
from bbx.types import BYTES_PER_ELEMENT, Precision, TensorSpec

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")
"""Operators that give what they are given in another shape."""

_UNCOUNTED = ("Attention", "Einsum", "GRU", "LSTM", "RNN", "DeformConv", "MultiHeadAttention")
"""Operators that multiply matrices in a way that nobody counts here."""

_NOT_WEIGHTS = (TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING)
"""Types of initialisers that hold shapes and indices."""

Shape = tuple[int, ...]
Infos = dict[str, TensorInfo]


def graph_costs(
    path: Path, batch: int, size: tuple[int, int] | None = None, *, thorough: bool = True
) -> Costs:
    """Count the costs of one inference of a graph.

    Args:
        batch: replaces a first dimension that is dynamic.
        size: height and width, which replace those of a four-dimensional input that are dynamic.
        thorough: compute the shapes that the graph computes in ways that shape inference does not follow; it
            takes a library that takes a second to load.

    Raises:
        ArtifactError: the file is no ONNX graph, or an input has another dynamic dimension.
    """
    model, _ = checked_graph(path)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    _fix_inputs(path, model.graph, batch, size)
    # What the exporter wrote about shapes is symbolic; with sizes in the inputs they can be told.
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    infos = tensor_infos(model)
    if thorough and not all(_is_known(infos, name) for node in model.graph.node for name in node.output):
        infos |= _computed(model)
    return _Counter(model, infos).costs()


def _is_known(infos: Infos, name: str) -> bool:
    info = infos.get(name)
    return not name or (info is not None and info.shape is not None and None not in info.shape)


def _computed(model: ModelProto) -> Infos:
    """What is known of the tensors that are left when all that depends on shapes alone is computed."""
    from onnxscript.optimizer import fold_constants

    bare = weightless(model)
    fold_constants(bare, onnx_shape_inference=True)
    infos = tensor_infos(bare)
    return {name: info for name, info in infos.items() if _is_known(infos, name)}


def _fix_inputs(path: Path, graph: GraphProto, batch: int, size: tuple[int, int] | None) -> None:
    """Put concrete sizes into the inputs, in place."""
    weights = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if dim.HasField("dim_value") or value.name in weights:
                continue
            if axis == 0:
                dim.dim_value = batch
            elif len(dims) == 4 and axis >= 2 and size is not None:
                dim.dim_value = size[axis - 2]
            else:
                raise ArtifactError(
                    f"{path}: dimension {axis} of the input {value.name!r} is dynamic.",
                    hint="Type: --image-size HEIGHTxWIDTH"
                    if len(dims) == 4
                    else "Export it with a fixed shape.",
                )


class _Counter:
    """Counts the nodes of one graph whose inputs have concrete shapes."""

    def __init__(self, model: ModelProto, infos: Infos) -> None:
        self._model = model
        self._infos = infos
        self._weights = {
            tensor.name: prod(tensor.dims)
            for tensor in _constants(model.graph)
            if tensor.data_type not in _NOT_WEIGHTS
        }
        self._fixed = {tensor.name for tensor in _constants(model.graph)}
        self._counted: set[str] = set()
        self._home: dict[str, str] = {}
        self._sizes: dict[str, Volume] = {}
        self._uses: list[Use[str]] = []

    def costs(self) -> Costs:
        """Of the whole graph."""
        graph = self._model.graph
        inputs, outputs = graph_specs(self._model)
        for spec in inputs:
            self._sizes[spec.name] = self._volume(spec.name)
        layers = tuple(self._layer(node) for node in graph.node if node.op_type != "Constant")
        weights = sum(map(self._volume, self._counted), Volume())
        ends = [self._volume(spec.name) for spec in (*inputs, *outputs)]

        def peak(precision: Precision) -> int:
            sizes = {name: held.nbytes(precision) for name, held in self._sizes.items()}
            given = [self._home.get(spec.name, spec.name) for spec in outputs]
            return peak_bytes(self._uses, sizes, inputs=[spec.name for spec in inputs], outputs=given)

        made = {name for node in graph.node for name in node.output if name}
        kinds = {node.op_type for node in graph.node}
        branching = {node.op_type for node in graph.node if any(True for _ in subgraphs(node))}
        return Costs(
            layers=layers,
            inputs=inputs,
            outputs=tuple(self._concrete(spec) for spec in outputs),
            buffers=Volume(),
            boundary=sum(ends, weights),
            peak=peak,
            not_counted=tuple(sorted((kinds & set(_UNCOUNTED)) | branching)),
            unknown_shapes=sum(self._shape(name) is None for name in made - self._fixed),
        )

    def _layer(self, node: NodeProto) -> Layer:
        given = [name for name in node.input if name]
        made = [name for name in node.output if name]
        own = [name for name in given if name in self._weights and name not in self._counted]
        self._counted |= set(own)
        values = [self._home.get(name, name) for name in given if name not in self._fixed]
        is_view = node.op_type in _VIEWS and bool(values)
        written = Volume()
        for name in made:
            self._home[name] = values[0] if is_view else name
            if not is_view:
                self._sizes[name] = self._volume(name)
                written += self._sizes[name]
        self._uses.append(Use({*values, *(self._home[name] for name in made)}))
        formula = _FORMULAS.get(node.op_type)
        shapes = [self._shape(name) for name in (*node.input, *node.output[:1])]
        parameters = sum(self._weights[name] for name in own)
        return Layer(
            name=node.name or (made[0] if made else ""),
            type=node.op_type,
            output_shape=self._shape(made[0]) if made else None,
            calls=1,
            parameters=parameters,
            trainable=0,
            flops=formula(node, shapes) if formula else 0,
            written=written,
            moved=Volume() if is_view else sum(map(self._volume, given), written),
        )

    def _shape(self, name: str) -> Shape | None:
        info = self._infos.get(name)
        if info is None or info.shape is None or any(size is None for size in info.shape):
            return None
        return tuple(size for size in info.shape if size is not None)

    def _volume(self, name: str) -> Volume:
        shape, info = self._shape(name), self._infos.get(name)
        dtype = None if info is None else _dtype(info.elem_type)
        return Volume() if shape is None or dtype is None else volume(dtype, prod(shape))

    def _concrete(self, spec: TensorSpec) -> TensorSpec:
        shape = self._shape(spec.name)
        return spec if shape is None else TensorSpec(spec.name, spec.dtype, shape)


def _constants(graph: GraphProto) -> Iterable[TensorProto]:
    """Initialisers, and the tensors of nodes that hold one, under the names that readers know them by."""
    yield from graph.initializer
    for node in graph.node:
        if node.op_type != "Constant":
            continue
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                named = TensorProto(data_type=attribute.t.data_type, dims=attribute.t.dims)
                named.name = node.output[0]
                yield named


def _dtype(elem_type: int) -> str | None:
    """NumPy's name of a type; None for one that has no fixed size here."""
    name = helper.tensor_dtype_to_string(elem_type).rpartition(".")[2].lower()
    named = {
        "float": "float32",
        "double": "float64",
        "float8e4m3fn": "float8_e4m3fn",
        "float8e5m2": "float8_e5m2",
    }.get(name, name)
    return named if named in BYTES_PER_ELEMENT else None


# Operations of one node, from the shapes of its inputs and of its first output; nought where one that matters
# is unknown. A multiply-add is two, and a bias is not counted, as `torch.utils.flop_counter` has it.

Shapes = list[Shape | None]


def _convolution(weight: int) -> Callable[[NodeProto, Shapes], int]:
    """Convolutions: each element of the output takes one multiply-add for each weight of its filter."""

    def count(node: NodeProto, shapes: Shapes) -> int:
        kernel, output = shapes[weight], shapes[-1]
        return 0 if kernel is None or output is None else 2 * prod(output) * prod(kernel[1:])

    return count


def _transposed(node: NodeProto, shapes: Shapes) -> int:
    """Each element of the input meets each weight of its filter."""
    given, kernel = shapes[0], shapes[1]
    return 0 if given is None or kernel is None else 2 * prod(given) * prod(kernel[1:])


def _matmul(node: NodeProto, shapes: Shapes) -> int:
    """Each element of the output is a sum over the last axis of the first input."""
    given, output = shapes[0], shapes[-1]
    return 0 if not given or output is None else 2 * prod(output) * given[-1]


def _gemm(node: NodeProto, shapes: Shapes) -> int:
    given, output = shapes[0], shapes[-1]
    if given is None or output is None:
        return 0
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return 2 * prod(output) * given[0 if transposed else 1]


_FORMULAS: dict[str, Callable[[NodeProto, Shapes], int]] = {
    "Conv": _convolution(1),
    "FusedConv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
}
