"""Several runs in one report: shards, machines, rows that are there twice, runs that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bbx
from bbx.benchmarks import reports
from bbx.benchmarks.journal import Document, Journal, read_samples
from bbx.benchmarks.reports.samples import NAME, read_pack
from bbx.errors import ArtifactError, UsageError
from tests.sample_reports import made, measured, row, written


def run(
    folder: Path, *rows: str, slower: float = 1.0, created: str = "2026-01-01T00:00:00Z", **changes: Any
) -> Path:
    """A folder with a report of the rows of these runtimes."""
    folder.mkdir(exist_ok=True)
    trace = (np.arange(9, 29) * 1e6 * slower).astype(np.int64)
    planned = [row(runtime=name)["key"] for name in changes.pop("planned", rows)]
    results = [measured(folder, trace + index, runtime=name) for index, name in enumerate(rows)]
    reports.write(made(*results, planned=planned, **changes) | {"created": created}, folder)
    return folder


def medians(report: Document) -> dict[str, float]:
    return {
        f"{each['runtime']} {each['environment'][:2]}": each["latency_ns"]["median"]
        for each in report["results"]
    }


def test_shards_add_up_to_the_report_of_one_run(tmp_path: Path) -> None:
    first, second = run(tmp_path / "1", "eager"), run(tmp_path / "2", "ort-cpu", "rtx")
    out = tmp_path / "out"
    merged = bbx.report([first, second], out=out)
    assert [each["runtime"] for each in merged["results"]] == ["eager", "ort-cpu", "rtx"]
    assert (merged["complete"], merged["planned"], merged["verdicts"]) == (True, 3, {"valid": 3})
    assert (len(merged["environments"]), merged["notes"]) == (1, [])
    assert {path.name for path in out.iterdir()} == {*reports.FILES, "rows.jsonl", "samples"}
    assert json.loads((out / "report.json").read_text()) == merged
    assert list(Journal(out, resume=True).read().values()) == merged["results"]
    assert len(merged["left_out"]) == 1
    for each in merged["results"]:
        samples, warm_up = read_samples(out / each["samples"])
        assert (samples.size, warm_up.size) == (20, 3)


def test_rows_of_one_model_stand_together(tmp_path: Path) -> None:
    for number, names in enumerate([("a", "b"), ("b", "a", "c")]):
        rows = [row(subject=name, batch=number + 1) for name in names]
        reports.write(made(*rows) | {"created": f"2026-01-0{number + 1}"}, tmp_path / str(number))
    merged = bbx.report([tmp_path / "0", tmp_path / "1"], out=tmp_path / "out")
    order = [(each["subject"], each["batch"]) for each in merged["results"]]
    assert order == [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("c", 2)]


def test_the_order_of_the_folders_does_not_matter(tmp_path: Path) -> None:
    first = run(tmp_path / "1", "eager", created="2026-01-02T00:00:00Z")
    second = run(tmp_path / "2", "eager", "ort-cpu", slower=2)
    one = bbx.report([first, second], out=tmp_path / "a")
    other = bbx.report([second, first], out=tmp_path / "b")
    assert one == other


def test_machines_are_kept_apart(tmp_path: Path) -> None:
    first = run(tmp_path / "1", "eager", fingerprint="aa" * 32)
    second = run(tmp_path / "2", "eager", slower=2, fingerprint="bb" * 32)
    merged = bbx.report([first, second], out=tmp_path / "out")
    assert medians(merged) == {"eager aa": 18.5e6, "eager bb": 37e6}
    assert [each["fingerprint"][:2] for each in merged["environments"]] == ["aa", "bb"]
    slow = read_pack(tmp_path / "out" / NAME)["resnet18/eager/fp32/b1/single", "bb" * 32]
    assert float(np.median(slow[0])) == 37e6
    assert [read_samples(tmp_path / "out" / each["samples"])[0][0] for each in merged["results"]] == [
        9e6,
        18e6,
    ]
    page = (tmp_path / "out" / "report.md").read_text()
    assert "come from 2 different environments" in page
    assert page.count("- fingerprint: ") == 2
    again = bbx.report(
        [tmp_path / "out", run(tmp_path / "3", "ort-cpu", fingerprint="cc" * 32)], out=tmp_path / "all"
    )
    assert medians(again) == {"eager aa": 18.5e6, "eager bb": 37e6, "ort-cpu cc": 18.5e6}


def test_of_a_row_that_is_there_twice_the_newest_counts_and_a_note_says_so(tmp_path: Path) -> None:
    new = run(tmp_path / "new", "eager", "rtx", slower=2, created="2026-01-02T00:00:00Z")
    old = run(tmp_path / "old", "eager", "ort-cpu")
    merged = bbx.report([new, old], out=tmp_path / "out")
    assert {name[:-3]: value for name, value in medians(merged).items()} == {
        "eager": 37e6,
        "ort-cpu": 18.5e6 + 1,
        "rtx": 37e6 + 1,
    }
    [note] = merged["notes"]
    assert note.startswith(
        f"1 row of {old} and {new} are the same row of the same environment: those of {new} count"
    )
    assert note in (tmp_path / "out" / "report.md").read_text()
    assert read_samples(tmp_path / "out" / merged["results"][0]["samples"])[0][0] == 18e6


def test_the_same_run_twice_is_that_run(tmp_path: Path) -> None:
    first = run(tmp_path / "1", "eager")
    merged = bbx.report([first, first / ".", first / "report.json"], out=tmp_path / "out")
    assert (len(merged["results"]), merged["notes"], len(merged["runs"])) == (1, [], 1)


def test_rows_that_one_run_did_not_reach_may_be_in_another(tmp_path: Path) -> None:
    stopped = run(tmp_path / "1", "eager", planned=["eager", "ort-cpu", "rtx"])
    rest = run(tmp_path / "2", "ort-cpu")
    merged = bbx.report([stopped, rest], out=tmp_path / "out")
    assert (merged["complete"], merged["planned"], merged["missing"]) == (
        False,
        3,
        [row(runtime="rtx")["key"]],
    )
    merged = bbx.report([stopped, rest, run(tmp_path / "3", "rtx")], out=tmp_path / "out")
    assert (merged["complete"], merged["missing"]) == (True, [])
    elsewhere = run(tmp_path / "3", "rtx", fingerprint="bb" * 32)
    assert not bbx.report([stopped, rest, elsewhere], out=tmp_path / "out")["complete"]


def test_a_report_that_does_not_tell_which_rows_are_missing_is_read(tmp_path: Path) -> None:
    file = run(tmp_path / "1", "eager", planned=["eager", "ort-cpu"]) / "report.json"
    older = json.loads(file.read_text())
    del older["missing"]
    file.write_text(json.dumps(older))
    merged = bbx.report([tmp_path / "1"], out=tmp_path / "out")
    assert (merged["complete"], merged["planned"], merged["missing"]) == (False, 2, [])
    assert "Stopped after 1 of 2 rows." in (tmp_path / "out" / "report.md").read_text()


def test_a_run_is_drawn_anew_in_its_own_folder(tmp_path: Path) -> None:
    before = written(tmp_path, rows=3)
    (tmp_path / "rows.jsonl").write_text("what bench wrote\n")
    (tmp_path / "report.html").unlink()
    merged = bbx.report([tmp_path], out=tmp_path)
    assert [each["key"] for each in merged["results"]] == [each["key"] for each in before["results"]]
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "rows.jsonl").read_text() == "what bench wrote\n"
    assert bbx.report([tmp_path], out=tmp_path)["results"] == merged["results"]


def test_four_files_of_a_run_are_enough(tmp_path: Path) -> None:
    first = run(tmp_path / "1", "eager")
    for path in (first / "samples").iterdir():
        path.unlink()
    merged = bbx.report([first], out=tmp_path / "out")
    assert read_samples(tmp_path / "out" / merged["results"][0]["samples"])[0].size == 20
    (first / NAME).unlink()
    merged = bbx.report([first], out=tmp_path / "none")
    assert merged["results"][0]["samples"] is None
    assert merged["notes"] == ["The raw samples of 1 row are not there."]


def test_a_comparison_marks_the_rows_that_became_slower(tmp_path: Path) -> None:
    pair = {"key": row(runtime="eager")["key"], "ratio": 1.2, "ci95": [1.1, 1.3], "verdict": "slower"}
    file = tmp_path / "compared.json"
    file.write_text(json.dumps({"schema": "bbx/1", "pairs": [pair]}))
    merged = bbx.report([run(tmp_path / "1", "eager")], out=tmp_path / "out", comparison=file)
    assert merged["comparison"] == [pair]
    assert 'failure type="slower"' in (tmp_path / "out" / "junit.xml").read_text()
    file.write_text(json.dumps({"schema": "bbx/1", "results": []}))
    with pytest.raises(ArtifactError, match="is no comparison of `bbx compare`: pairs: Field required"):
        bbx.report([tmp_path / "1"], out=tmp_path / "out", comparison=file)


def test_no_run_is_a_wrong_use() -> None:
    with pytest.raises(UsageError, match="No run was named"):
        bbx.report([])


BROKEN = {
    "cut": (lambda text: text[: len(text) // 2], "is cut short or is no JSON"),
    "empty": (lambda _: "", "is cut short or is no JSON"),
    "no text": (lambda _: b"\xff\xfe\x00", "is cut short or is no JSON"),
    "deep": (lambda _: "[" * 100_000, "is cut short or is no JSON"),
    "a list": (lambda _: "[]", "says of no schema"),
    "newer": (
        lambda text: text.replace("bbx/1", "bbx/2"),
        "has the schema 'bbx/2', and this bbx reads 'bbx/1'. A newer",
    ),
    "foreign": (lambda text: text.replace("bbx/1", "other/3"), "has the schema 'other/3'"),
    "no bench": (
        lambda _: '{"schema": "bbx/1", "pairs": []}',
        "is no report of `bbx bench`: created: Field required",
    ),
    "odd row": (
        lambda text: text.replace('"batch": 1', '"batch": "one"'),
        "results.0.batch: Input should be a valid",
    ),
    "infinite": (
        lambda text: text.replace('"mean": 18500000.0', '"mean": Infinity'),
        "results.0.latency_ns.mean",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_report_that_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    change, said = BROKEN[name]
    file = run(tmp_path / "1", "eager") / "report.json"
    broken = change(file.read_text())
    assert broken != file.read_text()
    file.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    with pytest.raises(ArtifactError) as caught:
        bbx.report([tmp_path / "1"], out=tmp_path / "out")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_report_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"There is no file .*nowhere/report\.json\. Name the folder"):
        bbx.report([tmp_path / "nowhere"])
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(ArtifactError, match=r"killed.* with --resume --out"):
        bbx.report([tmp_path])
