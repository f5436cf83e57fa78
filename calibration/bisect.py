"""Which nodes of a graph in fewer bits break its parity: the smallest set that has to be put back to FP32.

The graph is changed and run again, a few nodes at a time (`bbx.calibration.restore`), and the smallest set
that restores parity is searched for (`bbx.calibration.search`). Two control runs come first: the graph as it
is has to fail, and with every node put back it has to pass. Otherwise there is nothing to find, or it is not
the precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
from onnx import ModelProto

from bbx.calibration.agreement import distance_of
from bbx.calibration.low_precision import LowGraph, LowNode
from bbx.calibration.restore import Weights, restored
from bbx.calibration.search import smallest_set
from bbx.exporter.verify import Parity

Verdict = Literal["found", "nothing_to_find", "not_the_precision"]
Judge = Callable[[ModelProto], Parity]

_TRUST = 0.75
"""How much of the likelihood follows suspicion; the rest is even, so that no node is out of the question."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a graph with some nodes put back gave.

    Attributes:
        nodes: indices of the nodes that were put back.
        distance: see `bbx.calibration.agreement.distance_of`.
    """

    nodes: frozenset[int]
    passed: bool
    distance: float
    parity: Parity


@dataclass(frozen=True, slots=True)
class Blamed:
    """A node that has to be put back.

    Attributes:
        without: distance when every other node of the set is put back and this one is not; None where the
            evaluations did not last.
    """

    node: LowNode
    without: float | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a bisection found.

    Attributes:
        verdict: `found`; `nothing_to_find` when the graph passes as it is; `not_the_precision` when it does
            not pass with every node in FP32.
        nodes: the set, in the graph's order; empty for the other verdicts.
        minimal: every node of the set was seen to be needed.
        evaluations: how often a graph was run.
        as_it_is: the graph itself.
        all_back: every low node in FP32; None when that was not needed.
        repaired: the set in FP32.
        weights: constants that a node in FP32 has to read instead of the graph's own.
    """

    verdict: Verdict
    nodes: tuple[Blamed, ...]
    minimal: bool
    evaluations: int
    as_it_is: Evaluation
    all_back: Evaluation | None = None
    repaired: Evaluation | None = None
    weights: Weights = field(default_factory=dict)


class _SpentError(Exception):
    """The evaluations did not last."""


class _Oracle:
    """Runs graphs, remembers what they gave, and counts."""

    def __init__(self, graph: LowGraph, judge: Judge, most: int) -> None:
        self._graph = graph
        self._judge = judge
        self._most = most
        self.weights: Weights = {}
        self.count = 0
        self.known: dict[frozenset[int], Evaluation] = {}

    def evaluate(self, nodes: frozenset[int]) -> Evaluation:
        if nodes not in self.known:
            if self.count >= self._most:
                raise _SpentError
            self.count += 1
            # The graph itself is run as it came.
            model = restored(self._graph, nodes, self.weights) if nodes else self._graph.model
            parity = self._judge(model)
            self.known[nodes] = Evaluation(nodes, parity.verdict == "pass", distance_of(parity), parity)
        return self.known[nodes]

    def passes(self, nodes: frozenset[int]) -> bool:
        return self.evaluate(nodes).passed

    def forget(self, nodes: frozenset[int]) -> None:
        """Let a set be run again with other weights; it still counts."""
        self.known.pop(nodes, None)

    def smallest_known(self) -> frozenset[int]:
        return min((each.nodes for each in self.known.values() if each.passed), key=len)


def find_nodes(
    graph: LowGraph, judge: Judge, weights: Weights, suspicion: Sequence[float], *, most: int
) -> Finding:
    """Find the smallest set of nodes that restores parity when it computes in FP32.

    Args:
        judge: runs a graph and compares it with the reference; `pass` or not is what counts.
        weights: the reference's constants; where the graph does not pass with them, its own are used.
        suspicion: of each of `graph.low`.
        most: evaluations at most, 3 at least; when they are spent, the smallest set known by then is the
            answer.
    """
    oracle = _Oracle(graph, judge, max(most, 3))
    as_it_is = oracle.evaluate(frozenset())
    if as_it_is.passed:
        return Finding("nothing_to_find", (), True, oracle.count, as_it_is)
    everything = frozenset(low.index for low in graph.low)
    oracle.weights = weights
    all_back = oracle.evaluate(everything)
    if not all_back.passed and weights:
        # The reference's weights are of no use, for example because its batch norms were folded since.
        oracle.forget(everything)
        oracle.weights = {}
        own = oracle.evaluate(everything)
        all_back = min(own, all_back, key=lambda each: (not each.passed, each.distance))
    if not all_back.passed:
        return Finding("not_the_precision", (), True, oracle.count, as_it_is, all_back)
    ranked = sorted(zip(graph.low, suspicion, strict=True), key=lambda pair: -pair[1])
    likelihood = _Likelihood(graph, oracle, {low.index: doubt for low, doubt in ranked})
    minimal = True
    try:
        nodes = smallest_set([low.index for low, _ in ranked], oracle.passes, likelihood)
        for index in nodes:
            oracle.evaluate(nodes - {index})
    except _SpentError:
        nodes, minimal = oracle.smallest_known(), False
    blamed = tuple(Blamed(low, _without(oracle, nodes, low)) for low in graph.low if low.index in nodes)
    repaired = oracle.known[nodes]
    return Finding("found", blamed, minimal, oracle.count, as_it_is, all_back, repaired, oracle.weights)


def _without(oracle: _Oracle, nodes: frozenset[int], low: LowNode) -> float | None:
    found = oracle.known.get(nodes - {low.index})
    return None if found is None else found.distance


class _Likelihood:
    """How likely each node is to be the next one that is needed.

    Three things speak. Suspicion. A tensor shared with a node that was found, since an overflow goes through
    several nodes and a wrong scale is read by several: such nodes are together as likely as all others. And
    how
    far the distance fell between two prefixes that were tried: something at fault must lie between them.
    """

    def __init__(self, graph: LowGraph, oracle: _Oracle, suspicion: Mapping[int, float]) -> None:
        self._order = list(suspicion)
        self._oracle = oracle
        total = sum(doubt**2 for doubt in suspicion.values())
        even = (1 - _TRUST) / len(suspicion)
        self._prior = {index: _TRUST * doubt**2 / total + even for index, doubt in suspicion.items()}
        self._tensors = {low.index: _tensors(graph, low) for low in graph.low}

    def __call__(self, left: Sequence[int], found: frozenset[int]) -> list[float]:
        weights = [self._prior[index] for index in left]
        touched = {name for index in found for name in self._tensors[index]}
        near = [bool(self._tensors[index] & touched) for index in left]
        beside = sum(weight for weight, is_near in zip(weights, near, strict=True) if is_near)
        if beside:
            more = max(1.0, (sum(weights) - beside) / beside)
            weights = [
                weight * more if is_near else weight for weight, is_near in zip(weights, near, strict=True)
            ]
        for (short, far), (long, closer) in pairwise(self._prefixes(len(left))):
            if np.isfinite(far) and far > closer > 0:
                gain = min(1.0, float(np.log(far / closer))) * sum(weights) / (long - short)
                weights[short:long] = [weight + gain for weight in weights[short:long]]
        return weights

    def _prefixes(self, longest: int) -> list[tuple[int, float]]:
        """Lengths of the prefixes of the order that were tried, with their distances."""
        known = self._oracle.known
        found = []
        for length in range(longest + 1):
            tried = known.get(frozenset(self._order[:length]))
            if tried is not None:
                found.append((length, tried.distance))
        return found


def _tensors(graph: LowGraph, low: LowNode) -> frozenset[str]:
    """Names of the activations that a node reads, before they were quantised, and writes."""
    node = graph.nodes[low.index]
    read = set()
    for name in node.input:
        if name and graph.constant(name) is None:
            pair = graph.quantised_source(name)
            read.add(pair[0].input[0] if pair else name)
    return frozenset(read | set(node.output))
