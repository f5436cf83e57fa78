"""Many rows: a time to spend, and parts for several jobs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bbx import api
from bbx.benchmarks import bench as bench_module
from bbx.benchmarks import suite as suite_module
from bbx.benchmarks.artefacts import Ready
from bbx.benchmarks.bench import bench
from bbx.benchmarks.forecast import affordable, export_seconds, row_seconds
from bbx.benchmarks.measure import PROFILES
from bbx.benchmarks.plan import Plan, Row, Subject
from bbx.benchmarks.shard import Shard
from bbx.benchmarks.suite import Setting, Suite
from bbx.errors import UsageError
from bbx.exporter.engine_options import current_target
from bbx.models.registry import preset, presets
from bbx.models.spec import ModelSpec
from tests.benchmarks.test_compare import graph
from tests.conftest import Command

QUICK = PROFILES["quick"]
SUBJECTS = {entry.name: Subject(entry.name, spec=ModelSpec(entry.name)) for entry in presets()}


def rows(*subjects: str) -> tuple[Row, ...]:
    return tuple(Row(subject, runtime, "fp32", 1) for subject in subjects for runtime in ("eager", "ort-cpu"))


def cost(subject: str, profile: str = "quick") -> float:
    return export_seconds(subject) + sum(row_seconds(row, PROFILES[profile]) for row in rows(subject))


def test_a_budget_is_spent_on_the_subjects_that_cost_least() -> None:
    todo = rows("vgg19", "mobilenet_v3_small", "fasterrcnn_r50_fpn", "resnet18")
    small = cost("mobilenet_v3_small") + cost("resnet18")
    chosen = affordable(todo, QUICK, small + 0.1)
    assert chosen == {row.key for row in rows("mobilenet_v3_small", "resnet18")}
    assert affordable(todo, QUICK, 1e9) == {row.key for row in todo}
    assert affordable(todo, QUICK, 1.0) == set()


def test_more_builders_leave_time_for_more_rows() -> None:
    todo = rows(*list(SUBJECTS)[:30])
    assert len(affordable(todo, QUICK, 120, builders=4)) > len(affordable(todo, QUICK, 120))


def _suite(
    out: Path,
    measured: list[str],
    *,
    budget_s: float | None,
    profile: str = "quick",
    environment: str = "machine",
) -> Suite:
    def execute(request: dict[str, Any]) -> dict[str, Any]:
        measured.append(request["key"])
        facts = {"verdict": "valid", "latency_ns": {"median": 1}, "reasons": []}
        return {"key": request["key"], "profile": request["profile"], **facts}

    setting = Setting(out, profile, resume=True, environment=environment, budget_s=budget_s)
    return Suite(SUBJECTS, setting, lambda subject, row: Ready(None, None), execute)


def test_rows_that_do_not_fit_are_measured_when_the_run_is_resumed(tmp_path: Path) -> None:
    todo = Plan(rows("vgg19", "resnet18"), ())
    measured: list[str] = []
    first = list(_suite(tmp_path, measured, budget_s=cost("resnet18") + 0.1).run(todo))
    assert [row["key"] for row in first] == measured == [row.key for row in rows("resnet18")]
    rest = list(_suite(tmp_path, measured, budget_s=cost("vgg19") + 0.1).run(todo))
    assert [row["key"] for row in rest] == [row.key for row in todo.rows]
    assert measured[2:] == [row.key for row in rows("vgg19")]


def test_no_row_is_begun_when_the_time_is_over_and_those_on_disk_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that take ten times as long as was guessed."""
    names = [name for name in SUBJECTS if name.startswith("resnet")][:5]
    todo = Plan(rows(*names), ())
    measured: list[str] = []
    list(_suite(tmp_path, measured, budget_s=None).run(Plan(rows(names[4]), ())))
    measured.clear()
    budget_s = sum(map(cost, names))
    clock = SimpleNamespace(monotonic=lambda: len(measured) * budget_s / 3.5)
    monkeypatch.setattr(suite_module, "time", clock)
    done = [row["key"] for row in _suite(tmp_path, measured, budget_s=budget_s).run(todo)]
    assert measured == [row.key for row in todo.rows[:4]]
    assert done == measured + [row.key for row in rows(names[4])]


def test_rows_of_another_profile_are_not_taken_for_done(tmp_path: Path) -> None:
    todo = Plan(rows("vgg19", "resnet18"), ())
    measured: list[str] = []
    list(_suite(tmp_path, measured, budget_s=None).run(todo))
    measured.clear()
    budget_s = cost("resnet18", "report") + 0.1
    list(_suite(tmp_path, measured, budget_s=budget_s, profile="report").run(todo))
    assert measured == [row.key for row in rows("resnet18")]


@pytest.mark.parametrize("changed", [{"profile": "report"}, {"environment": "another"}])
def test_rows_on_disk_that_have_to_be_measured_again_cost_time_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]
) -> None:
    todo = Plan(rows("vgg19", "resnet18"), ())
    measured: list[str] = []
    list(_suite(tmp_path, measured, budget_s=None).run(todo))
    measured.clear()
    # The time is over before the first row.
    monkeypatch.setattr(suite_module, "time", SimpleNamespace(monotonic=iter([0.0, *[1e9] * 99]).__next__))
    assert list(_suite(tmp_path, measured, budget_s=60.0, **changed).run(todo)) == []
    assert measured == []


def test_a_run_without_a_budget_measures_everything(tmp_path: Path) -> None:
    measured: list[str] = []
    todo = Plan(rows("vgg19", "resnet18"), ())
    assert len(list(_suite(tmp_path, measured, budget_s=None).run(todo))) == 4


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_share_out_every_subject_once(count: int) -> None:
    parts = [Shard(index, count).of(SUBJECTS) for index in range(1, count + 1)]
    assert sorted(name for part in parts for name in part) == sorted(SUBJECTS)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_shard_that_cannot_be_or_is_empty_is_refused() -> None:
    for index, count in ((0, 2), (3, 2), (1, 0)):
        with pytest.raises(UsageError, match=f"no shard {index}/{count}"):
            Shard(index, count)
    with pytest.raises(UsageError, match="Shard 3/4 is empty: there are 2 subjects"):
        Shard(3, 4).of({name: SUBJECTS[name] for name in list(SUBJECTS)[:2]})


def test_the_shards_of_a_run_merge_into_its_rows(tmp_path: Path) -> None:
    nets = [str(graph(tmp_path / f"{name}.onnx")) for name in ("one", "two", "three")]
    for index in (1, 2):
        part = bench(nets, runtimes=["ort-cpu"], threads=1, shard=(index, 2), out=tmp_path / str(index))
        assert part["complete"]
    import bbx

    merged = bbx.report([tmp_path / "1", tmp_path / "2"], out=tmp_path / "all")
    assert sorted(row["subject"] for row in merged["results"]) == sorted(nets)
    assert merged["complete"]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("20m", 1200.0), ("1.5h", 5400.0)])
def test_the_command_line_understands_times_and_parts(
    bbx: Command, monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    asked: dict[str, Any] = {}
    document = {"results": [], "verdicts": {}}
    monkeypatch.setattr(bench_module, "bench", lambda *_, **options: asked.update(options) or document)
    monkeypatch.setattr(api, "bench", lambda *_, **options: asked.update(options) or document)
    bbx("bench", "resnet18", "--budget", text, "--shard", "2/4", "--json")
    assert (asked["budget_s"], asked["shard"]) == (seconds, (2, 4))


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--budget", "20", "'20' is no time. Type 90s, 20m or 1.5h."),
        ("--budget", "-5m", "is no time"),
        ("--budget", "infh", "is no time"),
        ("--shard", "2", "'2' is no part. Type the second of four as 2/4."),
        ("--shard", "5/4", "There is no shard 5/4."),
    ],
)
def test_wrong_times_and_parts_are_usage_errors(
    bbx: Command, tmp_path: Path, option: str, value: str, text: str
) -> None:
    answer = bbx("bench", "resnet18", option, value, "-o", tmp_path)
    assert answer.code == 2
    assert text in answer.error


@pytest.mark.skipif(current_target() is not None, reason="a machine with a GPU measures all of them")
def test_all_has_no_time_for_the_slowest_rows_unless_their_runtime_is_named(tmp_path: Path) -> None:
    def planned(**options: Any) -> set[tuple[str, str]]:
        """Task and runtime of what there is no time for, which is everything."""
        found = bench(budget_s=0, out=tmp_path, **options)
        pairs = [key.split("/")[:2] for key in found["missing"]]
        return {(preset(name).task, runtime) for name, runtime in pairs}

    classifiers = {("classification", runtime) for runtime in ("eager", "ort-cpu")}
    dense = ("detection", "segmentation")
    assert planned(everything=True) == classifiers | {(task, "ort-cpu") for task in dense}
    named = planned(subjects=["ssd300_vgg16"])
    assert named == {("detection", "eager"), ("detection", "ort-cpu")}
    assert planned(subjects=["resnet18"]) == classifiers | {("classification", "torchscript")}
    assert planned(everything=True, runtimes=["eager"]) == {
        (task, "eager") for task in ("classification", *dense)
    }
