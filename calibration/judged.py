"""How far a quantised graph is from its FP32 graph, where both still say numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from bbx.calibration.sessions import session
from bbx.errors import ExportError
from bbx.exporter.heads import SORTING, decisions_before, heads_of
from bbx.exporter.onnx_graph import FLOAT, tensor_infos
from bbx.exporter.parts import giving
from bbx.exporter.verify import Case, Parity, Tolerance, compare

_JOINING = {"Concat", "And", "Or", "Xor", "Where"}
"""Operators whose inputs are of one kind."""

Feeds = Mapping[str, NDArray[np.generic]]
Batches = Callable[[], Iterable[Feeds]]
"""Gives the same batches each time it is called."""


def judged_tensors(model: ModelProto) -> tuple[str, ...]:
    """The tensors by which a graph is judged: its last ones that are numbers and not decisions.

    A detector's heads, before boxes are sorted; the scores behind labels; every other float output.

    Raises:
        ExportError: no output comes from such a tensor.
    """
    heads = heads_of(model)
    if heads:
        return heads
    infos = tensor_infos(model)
    makers = {name: node for node in model.graph.node for name in node.output}

    def is_number(name: str) -> bool:
        return name in infos and infos[name].elem_type == FLOAT and makers[name].op_type not in SORTING

    found: dict[str, None] = {}
    seen: set[str] = set()
    waiting = [output.name for output in reversed(model.graph.output) if output.name in makers]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if is_number(name):
            found[name] = None
            continue
        made_of = [each for each in makers[name].input if each in makers]
        # Of most decisions the first input is what is decided about, and the others are how.
        waiting += reversed(made_of) if makers[name].op_type in _JOINING else made_of[:1]
    if not found:
        raise ExportError("The graph cannot be judged: no output of it comes from a tensor of float32.")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Judge:
    """Compares graphs with a reference graph on the same images.

    Where a network looks again at what it chose itself, as the second stage of a detector does, every graph
    is given the reference's choice; else no number of one would be the answer to what the other was asked.

    Attributes:
        names: tensors that are compared.
        shares: of each in the square of the distance; they add up to 1.
        decisions: tensors that every graph is given.
        batches: of the images.
        chosen: the reference's decisions for each batch.
        reference: what the reference graph gives for each batch.
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]
    decisions: tuple[str, ...]
    batches: Batches
    chosen: tuple[Feeds, ...]
    reference: tuple[Sequence[NDArray[np.float32]], ...]

    def part_of(self, model: ModelProto) -> ModelProto:
        """What of a graph has to run: from the images and the decisions to the tensors that are compared."""
        return giving(model, self.names, given=self.decisions)

    def parity(self, model: ModelProto, tolerance: Tolerance, *, against: str) -> Parity:
        """The compared tensors one by one.

        Args:
            against: what the reference is, for the report.

        Raises:
            BbxError: ONNX Runtime cannot run the graph.
        """
        cases = [
            Case(len(next(iter(batch.values()))), "held-out images", {**batch, **chosen})
            for batch, chosen in zip(self.batches(), self.chosen, strict=True)
        ]
        references = [dict(zip(self.names, wanted, strict=True)) for wanted in self.reference]
        with session(self.part_of(model), "a comparison", exact=True) as opened:

            def infer(feeds: Feeds) -> dict[str, NDArray[np.generic]]:
                return dict(zip(self.names, opened.run(feeds), strict=True))

            return compare(cases, references, infer, tolerance, against=against)

    def error(self, model: ModelProto, feeds: Feeds | None = None) -> float:
        """Relative L2 distance of a graph's answers, as the root of the mean square over the tensors.

        Args:
            feeds: further inputs of the graph, the same for every batch.
        """
        with session(self.part_of(model), "a trial", exact=True) as opened:
            return self.error_of(lambda batch: opened.run({**batch, **(feeds or {})}))

    def error_of(self, infer: Callable[[Feeds], Sequence[NDArray[np.generic]]]) -> float:
        """As `error`, of anything that takes images and decisions and answers in the order of `names`."""
        apart = np.zeros(len(self.names))
        size = np.zeros(len(self.names))
        for batch, chosen, wanted in zip(self.batches(), self.chosen, self.reference, strict=True):
            for index, (want, got) in enumerate(zip(wanted, infer({**batch, **chosen}), strict=True)):
                exact = want.astype(np.float64)
                apart[index] += np.sum((got.astype(np.float64) - exact) ** 2)
                size[index] += np.sum(exact**2)
        return float(np.sqrt(np.sum(self.shares * apart / np.maximum(size, np.finfo(np.float64).tiny))))


def judge_by(model: ModelProto, batches: Batches) -> Judge:
    """A judge whose reference is this graph.

    Tensors before any decision count for a half where there are others, and the others for the other half: a
    first stage has heads at every level of its pyramid, and a second stage has one of each kind.

    Raises:
        BbxError: ONNX Runtime cannot run it.
    """
    names = judged_tensors(model)
    before = decisions_before(model, names)
    decisions = tuple(dict.fromkeys(name for found in before.values() for name in found))
    chosen: list[Feeds] = []
    answers = []
    with session(giving(model, (*names, *decisions)), "the reference of a trial", exact=True) as opened:
        for batch in batches():
            given = opened.run(batch)
            answers.append([np.asarray(each) for each in given[: len(names)]])
            chosen.append(dict(zip(decisions, given[len(names) :], strict=True)))
    return Judge(
        names,
        _shares([bool(before[name]) for name in names]),
        decisions,
        batches,
        tuple(chosen),
        tuple(answers),
    )


def _shares(decided: Sequence[bool]) -> tuple[float, ...]:
    """Of each tensor in the whole, by whether a decision stands before it."""
    kinds = len(set(decided))
    return tuple(1 / (kinds * decided.count(each)) for each in decided)
