"""How far a quantised graph is from its FP32 graph, where both still say numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from bbx.calibration.sessions import session
from bbx.exporter.heads import unsorted_heads
from bbx.exporter.onnx_graph import FLOAT, tensor_infos
from bbx.exporter.parts import giving

Feeds = Mapping[str, NDArray[np.generic]]
Batches = Callable[[], Iterable[Feeds]]
"""Gives the same batches each time it is called."""


def judged_tensors(model: ModelProto) -> tuple[str, ...]:
    """The tensors by which a graph is judged: its last ones that are numbers and not decisions.

    A detector's heads, before boxes are sorted; the scores behind labels; every other float output.
    """
    heads = unsorted_heads(model)
    if heads:
        return heads
    infos = tensor_infos(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, None] = {}
    for output in model.graph.output:
        name = output.name
        while name in makers and (name not in infos or infos[name].elem_type != FLOAT):
            name = makers[name].input[0]
        if name in makers:
            found[name] = None
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Judge:
    """Compares graphs with a reference graph on the same images.

    Attributes:
        names: tensors that are compared.
        batches: of the images.
        reference: what the reference graph gives for each batch.
    """

    names: tuple[str, ...]
    batches: Batches
    reference: tuple[Sequence[NDArray[np.float32]], ...]

    def error(self, model: ModelProto, feeds: Feeds | None = None) -> float:
        """Relative L2 distance of a graph's answers, as the root of the mean square over the tensors.

        Args:
            feeds: further inputs of the graph, the same for every batch.
        """
        with session(giving(model, self.names), "a trial", exact=True) as opened:
            return self.error_of(lambda batch: opened.run({**batch, **(feeds or {})}))

    def error_of(self, infer: Callable[[Feeds], Sequence[NDArray[np.generic]]]) -> float:
        """As `error`, of anything that answers in the order of `names`."""
        apart = np.zeros(len(self.names))
        size = np.zeros(len(self.names))
        for batch, wanted in zip(self.batches(), self.reference, strict=True):
            for index, (want, got) in enumerate(zip(wanted, infer(batch), strict=True)):
                exact = want.astype(np.float64)
                apart[index] += np.sum((got.astype(np.float64) - exact) ** 2)
                size[index] += np.sum(exact**2)
        return float(np.sqrt(np.mean(apart / np.maximum(size, np.finfo(np.float64).tiny))))


def judge_by(model: ModelProto, batches: Batches) -> Judge:
    """A judge whose reference is this graph.

    Raises:
        BbxError: ONNX Runtime cannot run it.
    """
    names = judged_tensors(model)
    with session(giving(model, names), "the reference of a trial", exact=True) as opened:
        answers = tuple([np.asarray(each) for each in opened.run(batch)] for batch in batches())
    return Judge(names, batches, answers)
