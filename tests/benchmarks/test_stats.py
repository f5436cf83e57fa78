from __future__ import annotations

import math

import numpy as np
import pytest

from bbx.benchmarks import stats


def lognormal(n: int, seed: int = 0, spread: float = 0.05) -> stats.Samples:
    return (1e6 * np.random.default_rng(seed).lognormal(0, spread, n)).astype(np.int64)


def by_sorting_every_resample(samples: stats.Samples, length: int, seed: int) -> stats.Interval:
    """The circular block bootstrap as the textbook has it."""
    n = samples.size
    blocks = -(-n // length)
    starts = np.random.default_rng(seed).integers(0, n, (stats.RESAMPLES, blocks), dtype=np.int32)
    index = ((starts[:, :, None] + np.arange(length)) % n).reshape(stats.RESAMPLES, -1)
    ordered = np.sort(samples[index], axis=1)
    medians = np.sort(ordered[:, -(-ordered.shape[1] // 2) - 1])
    return stats.Interval(int(medians[24]), int(medians[974]))


@pytest.mark.parametrize(("rank", "wanted"), [(1, 1), (25, 3), (50, 5), (90, 9), (91, 10), (100, 10)])
def test_percentile_is_the_nearest_rank(rank: int, wanted: int) -> None:
    samples = np.array([3, 1, 2, 10, 9, 8, 7, 6, 5, 4], dtype=np.int64)
    assert stats.percentile(samples, rank) == wanted


@pytest.mark.parametrize("rank", [0, 101])
def test_percentile_outside_its_range_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="percentile"):
        stats.percentile(np.array([1], dtype=np.int64), rank)


@pytest.mark.parametrize(("rank", "needed"), stats.SAMPLES_NEEDED.items())
def test_samples_needed_are_those_that_wilks_asks_for(rank: int, needed: int) -> None:
    def chance_of_less_than_two_above(n: int) -> float:
        p = rank / 100
        return p**n + n * p ** (n - 1) * (1 - p)

    assert chance_of_less_than_two_above(needed) <= 0.01
    assert chance_of_less_than_two_above(needed - 1) > 0.01


@pytest.mark.parametrize(
    ("n", "shown"), [(63, ""), (64, "90"), (129, "90"), (130, "90 95"), (662, "90 95 99")]
)
def test_only_percentiles_with_enough_samples_are_shown(n: int, shown: str) -> None:
    summary = stats.summarise(lognormal(n))
    seen = {"90": summary.p90, "95": summary.p95, "99": summary.p99}
    assert " ".join(name for name, value in seen.items() if value is not None) == shown


def test_summary_of_known_numbers() -> None:
    summary = stats.summarise(np.arange(1, 101, dtype=np.int64))
    assert (summary.n, summary.median, summary.mean, summary.min) == (100, 50.5, 50.5, 1)
    assert (summary.p90, summary.iqr) == (90, 50)
    assert summary.p95 is None


def test_no_samples_cannot_be_summarised() -> None:
    with pytest.raises(ValueError, match="without samples"):
        stats.summarise(np.array([], dtype=np.int64))


@pytest.mark.parametrize(("n", "length"), [(50, 4), (333, 7), (500, 1), (64, 21)])
def test_interval_is_that_of_sorting_every_resample(n: int, length: int) -> None:
    samples = lognormal(n, seed=n)
    assert stats.median_interval(samples, seed=3, length=length) == by_sorting_every_resample(
        samples, length, 3
    )


def test_interval_is_the_same_for_the_same_seed_only() -> None:
    samples = lognormal(400)
    assert stats.median_interval(samples, seed=1) == stats.median_interval(samples, seed=1)
    assert len({stats.median_interval(samples, seed=seed) for seed in range(8)}) > 1


def test_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    trials = 200
    intervals = [stats.median_interval(lognormal(300, seed=seed)) for seed in range(trials)]
    covered = sum(each is not None and each.low <= 1_000_000 <= each.high for each in intervals)
    # A true coverage of 95 % gives fewer than 180 of 200 once in 300 tries, and 90 % still passes often.
    assert covered >= 0.88 * trials


def test_interval_widens_when_neighbours_are_alike() -> None:
    noise = np.random.default_rng(5).standard_normal(4000)
    walk = np.zeros_like(noise)
    for index in range(1, walk.size):
        walk[index] = 0.95 * walk[index - 1] + noise[index]
    kept = (1e6 + 1e4 * walk).astype(np.int64)
    shuffled = np.random.default_rng(6).permutation(kept)
    assert stats.block_length(kept) > 2 * stats.block_length(shuffled)
    wide, narrow = stats.median_interval(kept), stats.median_interval(shuffled)
    assert wide is not None
    assert narrow is not None
    assert wide.high - wide.low > 2.5 * (narrow.high - narrow.low)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_too_few_samples_have_no_interval(n: int) -> None:
    assert stats.median_interval(lognormal(n)) is None


def test_interval_of_samples_that_are_all_alike_is_that_value() -> None:
    assert stats.median_interval(np.full(100, 7, dtype=np.int64)) == stats.Interval(7, 7)


def test_reach_is_the_farther_end() -> None:
    assert math.isclose(stats.Interval(98, 101).reach(100.0), 0.02)
    assert math.isclose(stats.Interval(99, 103).reach(100.0), 0.03)


def test_two_modes_are_told_from_one() -> None:
    fast, slow = lognormal(600, 1, 0.02), 3 * lognormal(400, 2, 0.02)
    mixed = np.random.default_rng(3).permutation(np.concatenate([fast, slow]))
    modes = stats.two_modes(mixed)
    assert modes is not None
    assert modes.separation > 0.95
    assert modes.low == pytest.approx(1e6, rel=0.05)
    assert modes.high == pytest.approx(3e6, rel=0.05)
    assert modes.share == pytest.approx(0.4, abs=0.03)
    single = stats.two_modes(lognormal(1000))
    assert single is not None
    assert single.separation < 0.75


def test_a_few_outliers_are_no_mode() -> None:
    samples = lognormal(1000)
    samples[::100] *= 50
    found = stats.two_modes(samples)
    assert found is not None
    assert found.separation < 0.75
