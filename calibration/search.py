"""The smallest set of items that makes a test pass, in few tests.

Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002) asks for a
set that is 1-minimal: it passes, and without any one of its items it does not. Here such a set is found one
item at a time. Items are ordered by suspicion, and the shortest prefix of that order which passes ends with
an item that is needed. The search for it is a bisection, halved not by count but by how likely each item is
to be the one, so that an item under suspicion costs a test or two, and one that nobody suspected about log2
of their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Test = Callable[[frozenset[int]], bool]
Likelihood = Callable[[Sequence[int], frozenset[int]], Sequence[float]]


def smallest_set(items: Sequence[int], test: Test, likely: Likelihood) -> frozenset[int]:
    """A 1-minimal subset of `items` that passes, when what passes goes on passing with more items.

    Where that is not so, the set passes all the same; items may then be left over in it.

    Args:
        items: the most suspicious first; all together pass, and none of them fails.
        test: whether a set passes; remembers what it was asked, since some sets are asked for again.
        likely: of a prefix of `items` and what was found so far, how likely each of the prefix is to be the
            next; positive.
    """
    found: frozenset[int] = frozenset()
    left = list(items)
    while left and (not found or not test(found)):
        end = _shortest_prefix(left, found, test, likely(left, found))
        found |= {left[end - 1]}
        left = left[: end - 1]
    for item in sorted(found):
        if len(found) > 1 and test(found - {item}):
            found -= {item}
    return found


def _shortest_prefix(left: Sequence[int], found: frozenset[int], test: Test, weights: Sequence[float]) -> int:
    """Length of the shortest prefix that passes together with `found`; the whole is known to."""
    fails, passes = 0, len(left)
    while passes - fails > 1:
        middle = _middle(weights, fails, passes)
        if test(found | frozenset(left[:middle])):
            passes = middle
        else:
            fails = middle
    return passes


def _middle(weights: Sequence[float], fails: int, passes: int) -> int:
    """The length between the two at which the likelihood of the items between them halves best."""
    total = sum(weights[fails:passes])
    best, reached = fails + 1, 0.0
    gap = float("inf")
    for length in range(fails + 1, passes):
        reached += weights[length - 1]
        if abs(reached - total / 2) < gap:
            best, gap = length, abs(reached - total / 2)
    return best
