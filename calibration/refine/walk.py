"""A walk through a network, quantised and in FP32 side by side, that changes each layer as it comes by.

A layer sees what the layers before it give once they are changed, so that each may make up for the errors of
those before it.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from bbx.calibration.judged import Batches
from bbx.calibration.placement import Layer, Placement
from bbx.calibration.refine.biases import move_bias
from bbx.calibration.refine.moments import Matrix
from bbx.calibration.refine.rows import Product, product_of, stored
from bbx.calibration.refine.stages import Shelf, Stage, part_of, stages_of
from bbx.calibration.sessions import session
from bbx.calibration.to_qdq import EIGHT_BIT_TYPES, EightBit, EightBitType, QuantisedWeight, qdq_from_onnx
from bbx.errors import BbxError
from bbx.exporter.onnx_graph import TensorInfo, tensor_infos
from bbx.process import progress

_LEAST_ROWS, _MOST_ROWS, _ROWS_PER_INPUT = 2048, 8192, 16
"""Rows of a layer's input to look at, over all images; from larger maps they are sampled. Three times as many
change the result by a hundredth of its error (docs/refine.md)."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A layer on the walk.

    Attributes:
        product: how its weight multiplies.
        exact: FP32 weight, [groups, outputs, k].
        weight: as quantised so far.
        shared: how many layers have this weight.
        kind: the type that weights are stored in.
        rows: gives, batch by batch, rows [groups, n, k] of the quantised and of the FP32 network's input.
    """

    layer: Layer
    product: Product
    exact: Matrix
    weight: QuantisedWeight
    shared: int
    kind: EightBitType
    rows: Callable[[], Iterator[tuple[Matrix, Matrix]]]


@dataclass(frozen=True, slots=True)
class Change:
    """What a visit changes.

    Attributes:
        before, after: relative error that the change lowers; see the step that made it.
        weight: instead of the visited one; None leaves it.
        bias: float64 [outputs], added to the layer's; None leaves it. Where there is no place for one,
            nothing of the change is made.
    """

    before: float
    after: float
    weight: QuantisedWeight | None = None
    bias: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """Why a visit left a layer as it was."""

    why: str


@dataclass(frozen=True, slots=True)
class Quantisation:
    """A graph in FP32 and how it is quantised.

    Attributes:
        model: its weights are the exact ones; its biases are those that the quantised graph has, and that the
            FP32 network of a walk starts with.
    """

    model: ModelProto
    placement: Placement
    scales: Mapping[str, float]
    weights: Mapping[str, QuantisedWeight]
    kind: EightBit

    def graph(self) -> ModelProto:
        """With Q/DQ nodes."""
        return qdq_from_onnx(self.model, self.placement, self.scales, self.weights, self.kind)


def walked(
    start: Quantisation, batches: Batches, change: Callable[[Visit], Change | Left], stage: str
) -> tuple[Quantisation, list[tuple[Layer, Change | Left]]]:
    """Change each layer of a network in the graph's order.

    Args:
        batches: images; each is run once in both networks. What later layers need of them is kept in
            temporary files.
        change: what to change of a layer.
        stage: for the progress that is shown.

    Returns:
        The network as changed, and what happened to each layer.

    Raises:
        BbxError: there is no image, or ONNX Runtime cannot run the graph in stages.
    """
    happened: list[tuple[Layer, Change | Left]] = []
    with tempfile.TemporaryDirectory(prefix="bbx-refine-") as folder:
        walk = _Walk(start, Path(folder), batches)
        stages = stages_of(start.model, start.placement)
        for number, each in enumerate(stages):
            progress(stage, number / len(stages), each.layer.name)
            walk.advance(each)
            visit = walk.visit(each.layer)
            found = Left("it does not multiply its input by a matrix") if visit is None else change(visit)
            happened.append((each.layer, walk.take(each.layer, found)))
            walk.forget(each)
    return walk.now, happened


class _Walk:
    """Where the walk is: what each network has computed, and what was changed so far."""

    def __init__(self, start: Quantisation, folder: Path, batches: Batches) -> None:
        self._start = start
        self._model = ModelProto()
        self._model.CopyFrom(start.model)
        self._weights = dict(start.weights)
        self._readers = Counter(layer.weight for layer in start.placement.layers)
        self._infos: Mapping[str, TensorInfo] = tensor_infos(start.model)
        self._tensors = {tensor.name: tensor for tensor in start.model.graph.initializer}
        self._exact, self._quantised = Shelf(folder / "exact"), Shelf(folder / "quantised")
        self._images = 0
        for number, feeds in enumerate(batches()):
            self._exact.put(number, feeds)
            self._quantised.put(number, feeds)
            self._images += next((len(array) for array in feeds.values() if array.ndim), 1)
        if not self._images:
            raise BbxError("Refinement needs at least one image.", hint="Name a folder: --calib DIR")

    @property
    def now(self) -> Quantisation:
        """The quantisation with all changes so far."""
        return replace(self._start, model=self._model, weights=dict(self._weights))

    def advance(self, stage: Stage) -> None:
        """Compute the layer's input in both networks."""
        if not stage.nodes:
            return
        start = self._start
        exact, _ = part_of(start.model, stage, start.placement, self._infos)
        part, inside = part_of(self._model, stage, start.placement, self._infos)
        quantised = qdq_from_onnx(part, inside, start.scales, self._weights, start.kind)
        with ExitStack() as stack:
            for shelf, graph in ((self._exact, exact), (self._quantised, quantised)):
                opened = stack.enter_context(session(graph, "refinement", exact=True, inside=True))
                for number in range(shelf.batches):
                    answers = opened.run(shelf.get(number, stage.reads), stage.gives)
                    shelf.put(number, dict(zip(stage.gives, answers, strict=True)))

    def visit(self, layer: Layer) -> Visit | None:
        """The layer as it is now; None where it is no product of its input and a weight of its own."""
        weight = numpy_helper.to_array(self._tensors[layer.weight])
        node = self._start.model.graph.node[layer.index]
        shape = self._infos[layer.activation].shape
        product = product_of(node, weight.shape, (shape or ())[2:])
        if product is None:
            return None
        exact = np.ascontiguousarray(product.matrices(weight))
        return Visit(
            layer,
            product,
            exact,
            self._weights[layer.weight],
            self._readers[layer.weight],
            EIGHT_BIT_TYPES[self._start.kind],
            lambda: self._rows(layer, product),
        )

    def _rows(self, layer: Layer, product: Product) -> Iterator[tuple[Matrix, Matrix]]:
        name = layer.activation
        for number in range(self._exact.batches):
            exact = self._exact.get(number, [name])[name].astype(np.float32, copy=False)
            quantised = self._quantised.get(number, [name])[name].astype(np.float32, copy=False)
            wanted = math.ceil(_rows_of(product) / self._images)
            share = _share(product.positions(exact.shape), len(exact), wanted, (layer.index, number))
            rows = product.rows(quantised, share)
            yield stored(rows, self._start.scales[name], self._start.kind), product.rows(exact, share)

    def take(self, layer: Layer, found: Change | Left) -> Change | Left:
        """Let later layers see a change; returns what came of it."""
        if isinstance(found, Left):
            return found
        if found.bias is not None and not move_bias(self._model, layer, found.bias):
            return Left("there is no place for a bias")
        if found.weight is not None:
            self._weights[layer.weight] = found.weight
        return found

    def forget(self, stage: Stage) -> None:
        self._exact.drop(stage.drops)
        self._quantised.drop(stage.drops)


def _rows_of(product: Product) -> int:
    return min(max(_LEAST_ROWS, _ROWS_PER_INPUT * product.inputs), _MOST_ROWS)


def _share(positions: int, images: int, wanted: int, seed: tuple[int, int]) -> NDArray[np.intp] | None:
    """[images, wanted] positions of the output map, seeded; None for all where there are no more."""
    if positions <= wanted:
        return None
    order = np.random.default_rng(seed).random((images, positions))
    return np.argpartition(order, wanted, axis=1)[:, :wanted]
