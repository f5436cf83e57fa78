"""What a parsed TensorRT network holds, layer by layer: the types it will be compiled in, and its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from bbx.types import BYTES_PER_ELEMENT, TensorSpec

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "FP8": "float8_e4m3fn",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""NumPy's name of each TensorRT type that bbx can build with."""

COMPUTE_LAYERS = (
    "CONVOLUTION",
    "DECONVOLUTION",
    "MATRIX_MULTIPLY",
    "EINSUM",
    "ATTENTION_OUTPUT",
    "RECURRENCE",
)
_CARRIERS = (
    "CONSTANT",
    "SHUFFLE",
    "CAST",
    "IDENTITY",
    "QUANTIZE",
    "DEQUANTIZE",
    "SLICE",
    "SQUEEZE",
    "UNSQUEEZE",
)
"""Layers through which weights reach the layer that uses them."""


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One layer of a parsed network.

    Attributes:
        name: as TensorRT knows it. node: the ONNX node it was parsed from, or the same.
        kind: TensorRT's layer type.
        dtype: in which it computes; `int8` or `float8_e4m3fn` where its inputs are dequantised from that.
        weight_bytes: of the constants that reach it, as the network stores them.
    """

    name: str
    node: str
    kind: str
    dtype: str
    weight_bytes: int

    @property
    def computes(self) -> bool:
        """Whether it is a convolution, a matrix product or an attention: where the work is."""
        return self.kind in COMPUTE_LAYERS


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """A parsed network: its inputs, its outputs and its layers, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[LayerFacts, ...]

    @property
    def compute_layers(self) -> tuple[LayerFacts, ...]:
        """The layers that do the work."""
        return tuple(layer for layer in self.layers if layer.computes)


def network_facts(trt: ModuleType, network: Any) -> NetworkFacts:
    """Read a parsed network (`INetworkDefinition`) back."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}
    return NetworkFacts(
        inputs=tuple(_spec(network.get_input(index)) for index in range(network.num_inputs)),
        outputs=tuple(_spec(network.get_output(index)) for index in range(network.num_outputs)),
        layers=tuple(_layer_facts(trt, layer, makers) for layer in layers),
    )


def _spec(tensor: Any) -> TensorSpec:
    shape = tuple(None if size < 0 else int(size) for size in tensor.shape)
    return TensorSpec(tensor.name, DTYPES[tensor.dtype.name], shape)


def _inputs(layer: Any) -> Iterator[Any]:
    for index in range(layer.num_inputs):
        tensor = layer.get_input(index)
        if tensor is not None:
            yield tensor


def _layer_facts(trt: ModuleType, layer: Any, makers: dict[str, Any]) -> LayerFacts:
    kind = layer.type.name
    made_from = re.match(r"\[ONNX Layer: (.*?)\]", layer.metadata)
    computes = kind in COMPUTE_LAYERS
    return LayerFacts(
        name=layer.name,
        node=made_from[1] if made_from else layer.name,
        kind=kind,
        dtype=_compute_dtype(layer, makers),
        weight_bytes=_weight_bytes(trt, layer, makers) if computes or kind == "CONSTANT" else 0,
    )


def _compute_dtype(layer: Any, makers: dict[str, Any]) -> str:
    quantised = [_dequantised_from(tensor, makers) for tensor in _inputs(layer)]
    if layer.type.name in COMPUTE_LAYERS and quantised and quantised[0] is not None:
        return quantised[0]
    tensor = layer.get_output(0) if layer.num_outputs else next(_inputs(layer), None)
    return DTYPES.get(tensor.dtype.name, tensor.dtype.name.lower()) if tensor is not None else "none"


def _dequantised_from(tensor: Any, makers: dict[str, Any]) -> str | None:
    maker = makers.get(tensor.name)
    for _ in _CARRIERS:
        if maker is None or maker.type.name not in _CARRIERS or maker.num_inputs == 0:
            return None
        if maker.type.name == "DEQUANTIZE":
            return DTYPES.get(maker.get_input(0).dtype.name)
        maker = makers.get(maker.get_input(0).name)
    return None


def _weight_bytes(trt: ModuleType, layer: Any, makers: dict[str, Any]) -> int:
    total = 0
    match layer.type.name:
        case "CONSTANT":
            return _tensor_bytes(layer.get_output(0))
        case "CONVOLUTION":
            layer.__class__ = trt.IConvolutionLayer
            total = _stored_bytes(layer.kernel)
        case "DECONVOLUTION":
            layer.__class__ = trt.IDeconvolutionLayer
            total = _stored_bytes(layer.kernel)
    for tensor in _inputs(layer):
        maker = makers.get(tensor.name)
        for _ in _CARRIERS:
            if maker is None or maker.type.name not in _CARRIERS:
                break
            if maker.type.name == "CONSTANT":
                total += _tensor_bytes(maker.get_output(0))
                break
            maker = makers.get(maker.get_input(0).name)
    return total


def _stored_bytes(weights: Any) -> int:
    """Bytes of an array, or of `trt.Weights`, which stands for what NumPy has no type for."""
    name = getattr(weights.dtype, "name", str(weights.dtype))
    return int(weights.size) * BYTES_PER_ELEMENT[DTYPES.get(name, name)]


def _tensor_bytes(tensor: Any) -> int:
    return int(math.prod(tensor.shape)) * BYTES_PER_ELEMENT.get(DTYPES.get(tensor.dtype.name, ""), 0)
