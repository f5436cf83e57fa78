from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bbx.benchmarks import report
from bbx.benchmarks.environment import describe
from bbx.benchmarks.units import duration, mebibytes, milliseconds, significant
from bbx.errors import ArtifactError


def row(**changes: Any) -> dict[str, Any]:
    return {
        "key": "resnet18/ort-cpu/fp32/b1/single",
        "subject": "resnet18",
        "runtime": "ort-cpu",
        "precision": "fp32",
        "batch": 1,
        "scenario": "single",
        "verdict": "valid",
        "reasons": [],
        "latency_ns": {
            "median": 12_345_678.0,
            "ci95": [12_300_000, 12_400_000],
            "mean": 12_400_000.0,
            "min": 12_000_000,
            "p90": 12_500_000,
            "p95": 12_600_000,
            "p99": None,
            "iqr": 100_000,
        },
        "throughput_per_s": 80.6451,
        "samples": "samples/a.npz",
        "peak_bytes": 256 << 20,
        "parity": {"verdict": "pass"},
        "weights": "pretrained",
        "command": "bbx bench resnet18",
    } | changes


def made(*rows: dict[str, Any], planned: int | None = None) -> dict[str, Any]:
    left_out = [{"what": "rtx", "reason": "No | GPU.", "include": "Buy one."}]
    planned = len(rows) if planned is None else planned
    return report.document(rows, environment=describe(), left_out=left_out, profile="quick", planned=planned)


DOUBTED = row(
    runtime="eager",
    verdict="contended",
    reasons=[{"verdict": "contended", "text": "Others were busy.", "remedy": "Stop them."}],
)
FAILED = row(
    runtime="rtx",
    verdict="failed",
    reasons=[{"verdict": "failed", "text": "BuildError: no\nparser", "remedy": ""}],
    latency_ns=None,
    peak_bytes=None,
    parity=None,
)


def test_the_document_follows_the_contract() -> None:
    found = made(row(), DOUBTED)
    assert found["schema"] == "bbx/1"
    assert found["complete"]
    assert found["verdicts"] == {"valid": 1, "contended": 1}
    assert [each["runtime"] for each in found["results"]] == ["ort-cpu", "eager"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_only_valid_rows_stand_in_the_headline_table() -> None:
    headline, _, doubts = report.markdown(made(row(), DOUBTED, FAILED)).partition("## Not valid")
    assert "1 of 3 rows are valid" in headline
    assert "| resnet18 | ort-cpu | fp32 | 1 | **12.35 ms** | 12.30 – 12.40 | 12.50 ms | – |" in headline
    assert "| 80.65 | 256 MiB | pass |" in headline
    assert "eager" not in headline
    assert "| resnet18 | eager | fp32 | 1 | 12.35 ms | contended | contended: Others were busy." in doubts
    assert "| resnet18 | rtx | fp32 | 1 | – | failed | failed: BuildError: no parser |" in doubts


def test_no_valid_row_is_said_and_not_hidden() -> None:
    page = report.markdown(made(DOUBTED))
    assert "No row is valid" in page
    assert "0 of 1 rows are valid" in page


def test_what_was_left_out_is_listed_and_cannot_break_the_table() -> None:
    assert "| rtx | No \\| GPU. | Buy one. |" in report.markdown(made(row()))


def test_random_weights_cannot_be_missed() -> None:
    assert "resnet18 (random weights)" in report.markdown(made(row(weights="random")))


def test_a_stopped_run_says_so() -> None:
    found = made(row(), planned=9)
    assert not found["complete"]
    assert "Stopped after 1 of 9 rows." in report.markdown(found)


def test_both_files_are_written_and_no_other(tmp_path: Path) -> None:
    found = made(row())
    report.write(found, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == found
    assert (tmp_path / "out" / "report.md").read_text() == report.markdown(found)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_an_error_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"report\.json cannot be written"):
        report.write(made(row()), tmp_path / "file")


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (123, "0.0001230 ms"),
        (45_678, "0.04568 ms"),
        (1_000_000, "1.000 ms"),
        (12_345_678, "12.35 ms"),
        (2_345_678_900, "2346 ms"),
    ],
)
def test_milliseconds_have_four_digits(ns: int, text: str) -> None:
    assert milliseconds(ns) == text


def test_other_units() -> None:
    assert significant(0) == "0"
    assert mebibytes(3 << 29) == "1536 MiB"
    assert [duration(s) for s in (5, 89, 700, 11_100)] == ["5 s", "89 s", "12 min", "3 h 05 min"]
