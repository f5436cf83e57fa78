"""The most memory that activations need at once, by a liveness model of one sequence of operators."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Use(Generic[K]):
    """The values that one operator touches, those that it makes among them."""

    values: Collection[K]


def peak_bytes(
    uses: Sequence[Use[K]], sizes: Mapping[K, int], *, inputs: Iterable[K], outputs: Iterable[K]
) -> int:
    """The largest sum of sizes alive during any one operator.

    Operators run one after another as they were recorded. A value lives from the operator that makes it
    through the last that touches it; inputs are there from the start, outputs stay to the end. Nothing is
    computed in place that was not written so, and scratch memory within an operator is not known. So it is
    what a planner without fusion needs, without the weights.

    Args:
        sizes: bytes of every value; one that is not among them (a weight) counts for nothing.
    """
    born: dict[K, int] = dict.fromkeys(inputs, 0)
    dies: dict[K, int] = dict.fromkeys(born, 0)
    for index, use in enumerate(uses):
        for value in use.values:
            born.setdefault(value, index)
            dies[value] = index
    dies |= dict.fromkeys(outputs, len(uses) - 1)
    changes = [0] * (len(uses) + 1)
    for value, first in born.items():
        size = sizes.get(value, 0)
        changes[first] += size
        changes[dies[value] + 1] -= size
    peak = alive = 0
    for change in changes:
        alive += change
        peak = max(peak, alive)
    return peak
