"""The search for the smallest set, on tests whose answer is known."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import pytest

from bbx.calibration.search import smallest_set


class Counting:
    """A test that remembers what it was asked, and counts what it had to find out."""

    def __init__(self, passes: Callable[[frozenset[int]], bool]) -> None:
        self._passes = passes
        self.asked: dict[frozenset[int], bool] = {}

    def __call__(self, items: frozenset[int]) -> bool:
        return self.asked.setdefault(items, self._passes(items))


def _even(left: Sequence[int], found: frozenset[int]) -> list[float]:
    return [1.0] * len(left)


def _on(*suspects: int) -> Callable[[Sequence[int], frozenset[int]], list[float]]:
    return lambda left, found: [50.0 if item in suspects else 0.1 for item in left]


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_every_set_of_two_is_found(count: int) -> None:
    pairs = itertools.product(range(count), repeat=2)
    for wanted in map(frozenset, pairs):
        test = Counting(lambda items, wanted=wanted: wanted <= items)
        assert smallest_set(range(count), test, _even) == wanted


def test_one_in_128_takes_seven_tests() -> None:
    for wanted in (0, 1, 63, 64, 126, 127):
        test = Counting(lambda items, wanted=wanted: wanted in items)
        assert smallest_set(range(128), test, _even) == {wanted}
        # The bisection, and the proof that the one suffices.
        assert len(test.asked) <= 8


def test_suspects_in_front_cost_a_test_or_two_each() -> None:
    test = Counting(lambda items: {0, 1, 2} <= items)
    assert smallest_set(range(128), test, _on(0, 1, 2)) == {0, 1, 2}
    assert len(test.asked) <= 8


def test_a_wrong_suspicion_costs_little() -> None:
    test = Counting(lambda items: 100 in items)
    assert smallest_set(range(128), test, _on(0, 1, 2)) == {100}
    assert len(test.asked) <= 11


def test_either_of_two_is_enough() -> None:
    found = smallest_set(range(20), Counting(lambda items: bool({3, 11} & items)), _even)
    assert found in ({3}, {11})


def test_a_sum_of_small_parts_is_minimal() -> None:
    """Each item brings its number, and 100 is enough: no item of the answer can be left out."""
    order = sorted(range(20), reverse=True)
    found = smallest_set(order, Counting(lambda items: sum(items) >= 100), _even)
    assert sum(found) >= 100
    assert all(sum(found) - item < 100 for item in found)
    assert len(found) == 7


def test_what_is_found_passes_even_where_more_items_may_fail() -> None:
    generator = random.Random(0)
    for _ in range(50):
        good = {frozenset(generator.sample(range(8), generator.randint(1, 8))) for _ in range(40)}
        good.add(frozenset(range(8)))
        test = Counting(lambda items, good=good: items in good)
        assert smallest_set(range(8), test, _even) in good


def test_what_is_left_over_is_dropped() -> None:
    """0 spoils 1 unless 2 is there, so 2 is needed on the way, and not at the end."""
    test = Counting(lambda items: 1 in items and (0 not in items or 2 in items))
    assert smallest_set([0, 1, 2], test, _even) == {1}
