"""The promised time, on recorded runs: subject, runtime and seconds of each row, as they were measured."""

from __future__ import annotations

import itertools

import pytest

from bbx.benchmarks.forecast import Forecast, Scale, export_seconds, gflops, row_seconds
from bbx.benchmarks.measure import PROFILES
from bbx.benchmarks.plan import Row
from bbx.models.registry import presets

QUICK = PROFILES["quick"]
RUNTIMES = ("eager", "torchscript", "ort-cpu")


def rows(*subjects: str) -> list[Row]:
    return [Row(subject, runtime, "fp32", 1) for subject in subjects for runtime in RUNTIMES]


def all_rows() -> list[Row]:
    return rows(*(preset.name for preset in presets()))


def test_a_larger_network_a_larger_batch_and_a_longer_profile_take_longer() -> None:
    [small, _, small_ort] = rows("resnet18")
    [large, _, large_ort] = rows("fasterrcnn_r50_fpn")
    assert row_seconds(large, QUICK) > 2 * row_seconds(small, QUICK)
    assert row_seconds(large_ort, QUICK) < row_seconds(large, QUICK)
    assert row_seconds(small_ort, PROFILES["report"]) > row_seconds(small_ort, QUICK) + 5
    assert gflops("resnet18", 8) == 8 * gflops("resnet18")
    assert export_seconds("resnet18") < export_seconds("fasterrcnn_r50_fpn")


def test_an_unknown_model_counts_as_one_of_middle_size() -> None:
    assert gflops("timm:somebodys_net") == 5.0


def test_what_happened_outweighs_the_guess() -> None:
    scale = Scale()
    assert scale.of(10.0) == 10.0
    for _ in range(100):
        scale.learn(2.0, 6.0)
    assert scale.of(10.0) == pytest.approx(28.6, abs=0.1)


@pytest.mark.parametrize("slower", [0.6, 1.0, 4.0])
def test_on_another_machine_the_promise_holds_within_a_factor_of_two(slower: float) -> None:
    todo = all_rows()
    took = [slower * row_seconds(row, QUICK) for row in todo]
    forecast = Forecast(list(todo), {}, "quick")
    for index, (row, seconds) in enumerate(zip(todo, took, strict=True)):
        forecast.row_done(row, seconds)
        left = sum(took[index + 1 :])
        if index >= 9 and left > 30:
            assert left / 2 < forecast.left_s() < 2 * left


def test_rows_that_were_on_disk_take_no_time_and_teach_nothing() -> None:
    todo = rows("resnet18", "resnet50")
    forecast = Forecast(list(todo), {}, "quick")
    fresh = forecast.left_s()
    for row in todo[:3]:
        forecast.row_done(row, None)
    assert forecast.left_s() == pytest.approx(fresh - sum(row_seconds(row, QUICK) for row in todo[:3]))


def test_exports_count_while_they_have_to_be_made() -> None:
    subjects = ["resnet18", "resnet50", "resnet101", "resnet152"]
    exports = {subject: export_seconds(subject) for subject in subjects}
    forecast = Forecast(rows(*subjects), dict(exports), "quick", builders=2)
    measuring = sum(row_seconds(row, QUICK) for row in rows(*subjects))
    assert forecast.left_s() == pytest.approx(measuring + sum(exports.values()) / 2)
    forecast.exports_done(subjects[:2], 0.01)
    assert forecast.left_s() == pytest.approx(measuring + sum(list(exports.values())[2:]) / 2)
    forecast.exports_done(subjects[2:], 100.0)
    assert forecast.left_s() == pytest.approx(measuring)


def test_slow_exports_make_the_others_slow_too() -> None:
    names = [preset.name for preset in itertools.islice(presets(), 20)]
    forecast = Forecast([], {name: export_seconds(name) for name in names}, "quick")
    forecast.exports_done(names[:10], 3 * sum(map(export_seconds, names[:10])))
    rest = sum(map(export_seconds, names[10:]))
    assert 2 * rest < forecast.left_s() < 3 * rest
