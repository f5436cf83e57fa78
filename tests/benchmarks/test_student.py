"""Student's t, on numbers from printed tables."""

from __future__ import annotations

import math

import pytest

from bbx.benchmarks.student import quantile, two_sided


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706), (2, 4.303), (4, 2.776), (8, 2.306), (30, 2.042), (1000, 1.962)]
)
def test_quantiles_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert quantile(0.95, freedom) == pytest.approx(expected, abs=6e-4)
    assert two_sided(quantile(0.99, freedom), freedom) == pytest.approx(0.01, rel=1e-5)


def test_both_sides_count_and_nought_is_certain() -> None:
    assert two_sided(0.0, 3) == pytest.approx(1.0)
    assert two_sided(-2.0, 3) == two_sided(2.0, 3)
    # Of one degree of freedom, which is Cauchy's distribution, in closed form.
    assert two_sided(5.0, 1) == pytest.approx(1 - 2 / math.pi * math.atan(5.0), rel=1e-5)
    # Between whole numbers, between theirs.
    assert two_sided(2.0, 4) < two_sided(2.0, 3.5) < two_sided(2.0, 3)
