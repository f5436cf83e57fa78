"""A benchmark that is killed and resumed; `tests/performance/kills.py` does it ten times, with more rows."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks.graphs import write_graph
from tests.performance import kills


def test_a_benchmark_that_is_killed_twice_ends_whole(tmp_path: Path) -> None:
    graph, out = write_graph(tmp_path / "net.onnx"), tmp_path / "out"
    words = [str(graph), "--runtime", "ort-cpu", "--batch", "1,2", "--threads", "1"]
    # The first before any row can be done, the second in the middle of them.
    assert kills.disturbed(out, words, [0.4, 2.2]) >= 1
    rows = json.loads((out / "report.json").read_text())["results"]
    assert sorted(row["batch"] for row in rows) == [1, 2]
    assert kills.faults(out, {row["key"] for row in rows}) == []


def test_what_is_wrong_with_a_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / ".a.npz.1.tmp").touch()
    (tmp_path / "rows.jsonl").write_text('{"key": "a", "latency_ns": null, "reasons": []}\n{"key": "b", "la')
    (tmp_path / "report.json").write_text('{"results": []}')
    found = "\n".join(kills.faults(tmp_path, {"a", "b"}))
    assert "left over: samples/.a.npz.1.tmp" in found
    assert "line 1: half a row" in found
    assert "rows: ['b'] are not in both runs" in found
    assert "a has no measurement" in found
    assert "report.json: ['a', 'b']" in found
