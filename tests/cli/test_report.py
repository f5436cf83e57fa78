"""`bbx report`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.sample_reports import written


def test_runs_are_merged_and_the_report_is_named(bbx, tmp_path: Path) -> None:
    written(tmp_path / "a", rows=4)
    answer = bbx("report", tmp_path / "a", tmp_path / "a", "-o", tmp_path / "out")
    assert answer.code == 0
    assert answer.stdout == (
        f"4 rows of 1 run in 1 environment: 4 valid. Report: {tmp_path / 'out' / 'report.html'}\n"
    )
    assert (tmp_path / "out" / "report.html").exists()


def test_json_is_what_stands_in_the_file(bbx, tmp_path: Path) -> None:
    written(tmp_path / "a", rows=2)
    answer = bbx("report", tmp_path / "a", "-o", tmp_path / "out", "--json")
    assert answer.document == json.loads((tmp_path / "out" / "report.json").read_text())
    assert answer.document["schema"] == "bbx/1"


def test_a_run_that_cannot_be_read_is_one_line(bbx, tmp_path: Path) -> None:
    answer = bbx("report", tmp_path, "-o", tmp_path / "out")
    assert answer.code == 1
    assert answer.error == f"There is no file {tmp_path}/report.json. Name a folder that `bbx bench` wrote."
    assert bbx("report").code == 2


def test_a_folder_that_cannot_be_written_is_one_line(bbx, tmp_path: Path) -> None:
    written(tmp_path / "a", rows=1)
    (tmp_path / "file").write_text("")
    answer = bbx("report", tmp_path / "a", "-o", tmp_path / "file")
    assert answer.code == 1
    assert "cannot be written" in answer.error


def test_neither_torch_nor_onnx_is_loaded(bbx_process, tmp_path: Path) -> None:
    written(tmp_path / "a", rows=1)
    spy = tmp_path / "sitecustomize.py"
    spy.write_text(
        "import atexit, sys\n"
        "atexit.register(lambda: open('loaded', 'w').write(str({'torch', 'onnx'} & set(sys.modules))))\n"
    )
    answer = bbx_process("report", tmp_path / "a", "-o", "out", PYTHONPATH=str(tmp_path))
    assert answer.code == 0, answer.stderr
    assert (tmp_path / "loaded").read_text() == "set()"
