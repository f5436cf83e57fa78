"""The costs of a network, layer by layer, whatever they were counted on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bbx.types import BYTES_PER_ELEMENT, Precision, TensorSpec

BYTES_OF: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}
"""Size of one element in a precision."""


@dataclass(frozen=True, slots=True)
class Volume:
    """An amount of memory whose size depends on the precision.

    Attributes:
        floats: elements that a precision applies to: floating-point numbers.
        other: bytes of everything else, such as indices and pixels.
    """

    floats: int = 0
    other: int = 0

    def __add__(self, more: Volume) -> Volume:
        return Volume(self.floats + more.floats, self.other + more.other)

    def nbytes(self, precision: Precision) -> int:
        """Bytes with every floating-point number in this precision."""
        return self.floats * BYTES_OF[precision] + self.other


def volume(dtype: str, elements: int) -> Volume:
    """The volume of a tensor.

    Args:
        dtype: NumPy's name.
    """
    if dtype.startswith(("float", "bfloat")):
        return Volume(floats=elements)
    return Volume(other=elements * BYTES_PER_ELEMENT[dtype])


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: a module with what it computes itself, or a node of a graph.

    Attributes:
        name: path of the module, or the node's name; empty for the network itself.
        type: class of the module, or the node's operator.
        output_shape: of the first output of the first call; None where nobody knows.
        calls: how often one inference runs it.
        parameters: elements of its own parameters, those of parts within it left out; what it shares with an
            earlier layer counts there.
        trainable: those of them that an optimiser would change.
        flops: floating-point operations of one inference; a multiply-add is two.
        written: what its operators write, views left out.
        moved: what its operators read and write, weights and inputs included, views left out.
    """

    name: str
    type: str
    output_shape: tuple[int, ...] | None
    calls: int
    parameters: int
    trainable: int
    flops: int
    written: Volume
    moved: Volume


@dataclass(frozen=True, slots=True)
class Costs:
    """What one inference of a network costs.

    Attributes:
        layers: in the order in which they first run, then those that never do.
        inputs, outputs: with concrete shapes.
        buffers: elements of the buffers; nought for a graph, which calls them weights.
        boundary: inputs, outputs and parameters: what must cross the memory bus however it is computed.
        peak: bytes of activations alive at once, by precision; see `liveness`.
        not_counted: operators that compute and whose operations are not in `flops`.
        unknown_shapes: tensors of a graph whose shape nobody knows; they count for nothing.
    """

    layers: tuple[Layer, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    buffers: Volume
    boundary: Volume
    peak: Callable[[Precision], int]
    not_counted: tuple[str, ...] = ()
    unknown_shapes: int = 0

    @property
    def flops(self) -> int:
        """Of all layers."""
        return sum(layer.flops for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Of all layers."""
        return sum(layer.parameters for layer in self.layers)
