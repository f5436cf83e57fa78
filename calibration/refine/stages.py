"""A network run in stages: up to one layer, then, once that layer is refined, up to the next.

Running the whole network anew for each of its layers would cost their number times half a network. Here the
tensors that later nodes still read are kept between stages, in files, so that all stages together cost one
network, and memory is that of one batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto, helper

from bbx.calibration.placement import Layer, Placement
from bbx.errors import ExportError
from bbx.exporter.onnx_graph import TensorInfo
from bbx.exporter.parts import reads_of

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Stage:
    """What has to run before a layer's input is known.

    Attributes:
        layer: the layer whose input this stage makes; it runs itself in a later stage.
        nodes: indices, in the graph's order; none where the input is there already.
        reads: tensors of earlier stages, and inputs of the graph, that the nodes read.
        gives: tensors that these nodes make and that the layer or later nodes read.
        drops: tensors that nothing reads after this layer's turn.
    """

    layer: Layer
    nodes: tuple[int, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    drops: tuple[str, ...]


def stages_of(model: ModelProto, placement: Placement) -> list[Stage]:
    """The stages of a graph, one for each layer of its placement, in the graph's order."""
    plan = _Plan(model)
    return [plan.stage(layer) for layer in sorted(placement.layers, key=lambda layer: layer.index)]


class _Plan:
    """Which nodes have run after the stages so far, and which tensors are kept then."""

    def __init__(self, model: ModelProto) -> None:
        self._reads = [reads_of(model, index) for index in range(len(model.graph.node))]
        self._makes = [tuple(name for name in node.output if name) for node in model.graph.node]
        self._makers = {name: index for index, names in enumerate(self._makes) for name in names}
        self._readers: dict[str, set[int]] = {}
        for index, names in enumerate(self._reads):
            for name in names:
                self._readers.setdefault(name, set()).add(index)
        self._kept = {value.name for value in model.graph.input}
        self._done: set[int] = set()

    def stage(self, layer: Layer) -> Stage:
        nodes = self._missing(layer.activation)
        self._done |= nodes
        inside = {name for index in nodes for name in self._makes[index]}
        reads = {name for index in nodes for name in self._reads[index]} & self._kept
        gives = {name for name in inside if self._readers.get(name, set()) - self._done}
        self._kept |= gives
        # The layer itself is not done yet, so what it reads outlives its turn until its node has run.
        drops = {name for name in self._kept if not self._readers.get(name, set()) - self._done}
        self._kept -= drops
        return Stage(
            layer, tuple(sorted(nodes)), tuple(sorted(reads)), tuple(sorted(gives)), tuple(sorted(drops))
        )

    def _missing(self, name: str) -> set[int]:
        """Nodes that a tensor needs and that no stage has run."""
        found: set[int] = set()
        wanted = [name]
        while wanted:
            name = wanted.pop()
            if name in self._kept or name not in self._makers or self._makers[name] in found:
                continue
            found.add(self._makers[name])
            wanted += self._reads[self._makers[name]]
        return found


def part_of(
    model: ModelProto, stage: Stage, placement: Placement, infos: Mapping[str, TensorInfo]
) -> tuple[ModelProto, Placement]:
    """A stage as a graph of its own, and what of a placement lies in it.

    Raises:
        ExportError: the type of a tensor between two stages is not known.
    """
    part = ModelProto(ir_version=model.ir_version)
    part.opset_import.extend(model.opset_import)
    part.graph.name = model.graph.name
    part.graph.node.extend(model.graph.node[index] for index in stage.nodes)
    read = {name for index in stage.nodes for name in reads_of(model, index)}
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    part.graph.input.extend(_described(name, infos) for name in stage.reads)
    part.graph.output.extend(_described(name, infos) for name in stage.gives)
    position = {index: number for number, index in enumerate(stage.nodes)}
    inside = Placement(
        tuple(replace(x, index=position[x.index]) for x in placement.layers if x.index in position),
        tuple(replace(x, index=position[x.index]) for x in placement.residuals if x.index in position),
        (),
    )
    return part, inside


def _described(name: str, infos: Mapping[str, TensorInfo]) -> ValueInfoProto:
    if name not in infos:
        raise ExportError(
            f"The type of the tensor {name!r} cannot be inferred, so the graph cannot be refined in stages.",
            hint="Quantise it without --refine.",
        )
    info = infos[name]
    return helper.make_tensor_value_info(name, info.elem_type, info.shape)


class Shelf:
    """Tensors of each batch, kept in files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._numbers: dict[str, int] = {}
        self.batches = 0

    def put(self, batch: int, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Keep a batch's tensors."""
        for name, array in arrays.items():
            np.save(self._path(batch, name), array)
        self.batches = max(self.batches, batch + 1)

    def get(self, batch: int, names: Iterable[str]) -> Arrays:
        """Tensors of a batch, by name."""
        return {name: np.load(self._path(batch, name)) for name in names}

    def drop(self, names: Collection[str]) -> None:
        """Forget tensors of all batches."""
        for name in names:
            for batch in range(self.batches):
                self._path(batch, name).unlink(missing_ok=True)

    def _path(self, batch: int, name: str) -> Path:
        """A file; a tensor's name may hold characters that a file's may not."""
        number = self._numbers.setdefault(name, len(self._numbers))
        return self._folder / f"{number}-{batch}.npy"
