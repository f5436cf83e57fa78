"""The verdicts of a comparison, on literal numbers."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from bbx.benchmarks.decide import Finding, between_processes, corrected, fired, paired, unpaired

EFFECT = 0.02


def logs(*ratios: float) -> list[float]:
    return [math.log(ratio) for ratio in ratios]


def noisy(ratio: float, spread: float, seed: int, n: int = 30) -> list[float]:
    return (math.log(ratio) + spread * np.random.default_rng(seed).standard_normal(n)).tolist()


def trace(median_ns: int, spread: float, seed: int, n: int = 400) -> np.ndarray:
    noise = np.exp(spread * np.random.default_rng(seed).standard_normal(n))
    return (median_ns * noise).astype(np.int64)


@pytest.mark.parametrize(
    ("ratios", "change"),
    [
        ([1.05] * 30, "slower"),
        ([0.95] * 30, "faster"),
        ([1.0] * 30, "same"),
        ([1.019] * 30, "same"),
        ([1.0, 1.04] * 15, "ambiguous"),
        ([1.05] * 20 + [0.99] * 10, "ambiguous"),
        ([1.05] * 27 + [0.80] * 3, "slower"),
    ],
)
def test_the_whole_interval_must_lie_on_one_side_of_the_effect(ratios: list[float], change: str) -> None:
    found = paired(logs(*ratios), effect=EFFECT)
    assert found.change == change
    assert bool(found.reason) == (change == "ambiguous")


def test_the_ratio_is_the_median_pair_and_lies_in_its_interval() -> None:
    found = paired(logs(*[1.10] * 11, *[1.20] * 11, *[1.30] * 8), effect=EFFECT)
    assert found.ratio == pytest.approx(1.20)
    assert found.low == pytest.approx(1.10)
    assert found.high == pytest.approx(1.20)


def test_p_is_the_signed_rank_tests() -> None:
    # Of ten differences from the effect the two smallest lie below it: W = 55 - 1 - 2, deviation 9.81.
    beyond = [0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009]
    values = [math.log(1.02) + each for each in (*beyond, -0.0005, -0.001)]
    found = paired(values, effect=EFFECT)
    assert found.p == pytest.approx(math.erfc((52 - 27.5) / math.sqrt(96.25) / math.sqrt(2)))
    assert paired(logs(*[1.0] * 10), effect=EFFECT).p == 1.0


def test_an_interval_beyond_the_effect_is_not_enough_where_chance_explains_it() -> None:
    found = paired(logs(*[1.03] * 21, *[0.90] * 9), effect=EFFECT)
    assert found.low > 1.02
    assert found.change == "ambiguous"
    assert "may be chance" in found.reason


def test_a_larger_effect_forgives_more() -> None:
    assert paired(logs(*[1.05] * 30), effect=0.10).change == "same"


def test_no_pair_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="no pair"):
        paired([], effect=EFFECT)


def test_equal_variants_are_hardly_ever_called_different_and_slower_ones_found() -> None:
    equal = Counter(paired(noisy(1.0, 0.05, seed), effect=EFFECT).change for seed in range(150))
    slower = Counter(paired(noisy(1.05, 0.03, seed), effect=EFFECT).change for seed in range(150))
    assert equal["slower"] + equal["faster"] <= 1
    assert slower["slower"] >= 143
    assert slower["faster"] + slower["same"] == 0


def test_traces_of_two_times_are_compared_by_their_medians() -> None:
    found = unpaired(trace(1_000_000, 0.02, 1), trace(1_100_000, 0.02, 2), effect=0.05)
    assert found is not None
    assert found.change == "slower"
    assert found.low < 1.1 < found.high
    assert found.p < 1e-6
    back = unpaired(trace(1_100_000, 0.02, 2), trace(1_000_000, 0.02, 1), effect=0.05)
    assert back is not None
    assert back.change == "faster"


def test_traces_that_are_alike_are_the_same_and_wide_ones_not_known() -> None:
    alike = unpaired(trace(1_000_000, 0.02, 1), trace(1_010_000, 0.02, 2), effect=0.05)
    wide = unpaired(trace(1_000_000, 0.8, 1, n=40), trace(1_000_000, 0.8, 2, n=40), effect=0.05)
    assert alike is not None
    assert wide is not None
    assert (alike.change, alike.p) == ("same", 1.0)
    assert wide.change == "ambiguous"


def test_constant_traces_need_no_interval() -> None:
    one, other = np.full(20, 1_000_000), np.full(20, 2_000_000)
    for head, change, p in ((other, "slower", 0.0), (one, "same", 1.0)):
        found = unpaired(one, head, effect=0.05)
        assert found is not None
        assert (found.change, found.p) == (change, p)


@pytest.mark.parametrize("sizes", [(7, 400), (400, 7)])
def test_a_trace_that_is_too_short_says_nothing(sizes: tuple[int, int]) -> None:
    assert unpaired(*(trace(1_000_000, 0.02, 1, n=n) for n in sizes), effect=0.05) is None


def test_processes_are_compared_by_what_lies_between_them() -> None:
    base = [100.0, 102.0, 98.0, 101.0, 99.0]
    found = between_processes(base, [value * 1.1 for value in base], effect=0.05)
    assert found is not None
    # Both deviate by 1.58 %, so the error is 0.01 and Student's t with 8 degrees of freedom 2.306.
    assert found.ratio == pytest.approx(1.1)
    assert math.log(found.high / found.low) / 2 == pytest.approx(2.306 * 0.01, rel=2e-3)
    assert (found.change, found.p < 0.005) == ("slower", True)
    same = between_processes(base, base, effect=0.05)
    assert same is not None
    assert (same.change, same.p) == ("same", 1.0)
    # Traces of long runs know their median well; processes that differ by as much as the change say nothing.
    restless = between_processes([90.0, 110.0, 95.0, 105.0], [99.0, 121.0, 104.0, 116.0], effect=0.05)
    assert restless is not None
    assert restless.change == "ambiguous"
    assert between_processes([100.0], base, effect=0.05) is None
    assert between_processes([100.0] * 4, [110.0] * 4, effect=0.05).change == "slower"  # type: ignore[union-attr]


def finding(p: float, change: str) -> Finding:
    ratio = 1.1 if change == "slower" else 1.0
    return Finding(ratio, ratio - 0.05, ratio + 0.05, p, change)  # type: ignore[arg-type]


def test_holm_takes_the_smallest_first_and_stops_at_the_first_that_fails() -> None:
    # Against 0.05/4, 0.05/3, 0.05/2 and 0.05: the third fails, and the fourth counts no more.
    rows = [finding(p, "slower") for p in (0.030, 0.001, 0.016, 0.031)]
    assert [row.change for row in corrected(rows)] == ["ambiguous", "slower", "slower", "ambiguous"]
    assert "One of 4 rows" in corrected(rows)[0].reason


def test_a_single_row_needs_no_correction_and_same_stays_same() -> None:
    assert corrected([finding(0.04, "slower")])[0].change == "slower"
    rows = [finding(1.0, "same"), finding(0.9, "ambiguous"), finding(0.04, "faster")]
    assert [row.change for row in corrected(rows)] == ["same", "ambiguous", "ambiguous"]
    assert corrected([]) == []


def test_of_many_rows_that_changed_little_fewer_are_called_changed_than_of_single_ones() -> None:
    rows = [paired(noisy(1.03, 0.03, seed), effect=EFFECT) for seed in range(150)]
    assert sum(map(fired, rows)) > 2 * sum(map(fired, corrected(rows)))
