"""Accuracy beside latency: the metrics of `bbx eval` as a field and a column of a benchmark's rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bbx import process
from bbx.benchmarks import bench as bench_module
from bbx.benchmarks import row as row_module
from bbx.benchmarks.accuracy import labelled
from bbx.benchmarks.reports.accuracies import accuracy_cells, accuracy_columns
from bbx.errors import BbxError
from tests.evaluation.fitted import checkpoint, write_crops


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure rows where torch is imported already."""

    def here(listener: process.Listener) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def execute(request: dict[str, Any]) -> dict[str, Any]:
            with process.listening(listener):
                return row_module.row_task(request)

        return execute

    monkeypatch.setattr(bench_module, "in_child", here)


def test_a_row_has_the_accuracy_of_its_network(bbx: Any, in_this_process: None, tmp_path: Path) -> None:
    network = checkpoint(tmp_path / "textures.safetensors", order=(1, 0, 2))
    data = write_crops(tmp_path / "data", 3)
    run = ("bench", network, "--runtime", "eager", "--out", tmp_path / "report")
    assert bbx(*run, "--data", data).code in (0, 1)
    [row] = json.loads((tmp_path / "report" / "report.json").read_text())["results"]
    assert row["accuracy"]["top1"] == pytest.approx(1 / 3)
    assert row["latency_ns"]["median"] > 0
    # Images that changed are judged anew, and the same ones are not.
    before = row["command"], row["latency_ns"]
    again = bbx(*run, "--data", data, "--resume", "--json").document["results"][0]
    assert (again["command"], again["latency_ns"]) == before
    (data / "brick" / "000.png").unlink()
    changed = bbx(*run, "--data", data, "--resume", "--json").document["results"][0]
    assert changed["latency_ns"] != before[1]
    assert changed["accuracy"]["top1"] == pytest.approx(3 / 8)


def test_data_of_another_task_leaves_the_latency(bbx: Any, in_this_process: None, tmp_path: Path) -> None:
    network = checkpoint(tmp_path / "textures.safetensors")
    (tmp_path / "flat").mkdir()
    options = ("--runtime", "eager", "--data", tmp_path / "flat", "--out", tmp_path / "report", "--json")
    answer = bbx("bench", network, *options)
    [row] = answer.document["results"]
    assert row["accuracy"] is None
    assert row["latency_ns"]["median"] > 0
    assert "has no accuracy: " in answer.stderr


def test_data_that_is_not_there_ends_it_before_anything_is_measured(bbx: Any, tmp_path: Path) -> None:
    answer = bbx("bench", "resnet18", "--data", tmp_path / "nothing", "--out", tmp_path / "report")
    assert answer.code == 1
    assert "There is no data" in answer.error
    assert not (tmp_path / "report").exists()
    with pytest.raises(BbxError, match="There is no data"):
        labelled(str(tmp_path / "nothing"), None, None)
    assert labelled(None, None, None) is None


def test_columns_are_the_metrics_of_the_tasks_that_occur() -> None:
    rows: list[dict[str, Any]] = [
        {"accuracy": {"top1": 0.5, "ece": 0.1}},
        {"accuracy": {"mAP": 0.25, "mAP50": 0.4}},
        {"accuracy": None},
        {},
    ]
    columns = accuracy_columns(rows)
    assert columns == ["top1", "mAP"]
    assert [accuracy_cells(row, columns) for row in rows] == [
        ["50.00%", "–"],
        ["–", "25.00%"],
        ["–", "–"],
        ["–", "–"],
    ]
    assert accuracy_columns(rows[2:]) == []
