"""`bbx compare` at the command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bbx.benchmarks.environment import describe
from bbx.benchmarks.journal import write_samples
from bbx.benchmarks.reports import document
from bbx.types import SCHEMA
from tests.conftest import Command

KEYS = ("one/ort-cpu/fp32/b1/single", "two/eager/fp32/b1/single")


def _row(key: str, median: float) -> dict[str, Any]:
    subject, runtime, precision, _, scenario = key.split("/")
    return {
        "key": key,
        "subject": subject,
        "runtime": runtime,
        "precision": precision,
        "batch": 1,
        "scenario": scenario,
        "verdict": "valid",
        "reasons": [],
        "latency_ns": {"median": median, "ci95": None, "p90": None, "p99": None, "min": 1, "mean": median},
        "throughput_per_s": 1.0,
        "samples": f"samples/{subject}.npz",
        "peak_bytes": None,
        "parity": None,
        "command": "bbx bench",
    }


def _report(out: Path, factor: float) -> Path:
    rows = []
    for seed, key in enumerate(KEYS):
        noise = np.random.default_rng(seed + int(factor * 100)).standard_normal(100)
        samples = (1e6 * (factor if seed == 0 else 1) * np.exp(0.01 * noise)).astype(np.int64)
        rows.append(_row(key, float(np.median(samples))))
        write_samples(out / rows[-1]["samples"], samples, samples[:1])
    report = document(rows, environment=describe(), left_out=[], profile="quick", planned=KEYS)
    (out / "report.json").write_text(json.dumps(report))
    return out


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return _report(tmp_path / "base", 1.0)


@pytest.fixture
def in_folder(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be where the report is called `base`."""
    monkeypatch.chdir(base.parent)


def test_slower_is_exit_code_four_and_the_contract_of_pairs_holds(
    bbx: Command, base: Path, tmp_path: Path
) -> None:
    answer = bbx("compare", base, _report(tmp_path / "head", 1.2), "--json")
    assert answer.code == 4
    found = answer.document
    assert found["schema"] == SCHEMA
    first, second = found["pairs"]
    assert (first["key"], first["verdict"]) == (KEYS[0], "slower")
    assert first["ci95"][0] < first["ratio"] < first["ci95"][1]
    assert (second["key"], second["verdict"]) == (KEYS[1], "same")


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.049])
def test_everything_else_is_exit_code_nought(bbx: Command, base: Path, tmp_path: Path, factor: float) -> None:
    assert bbx("compare", base, _report(tmp_path / "head", factor), "--json").code == 0


def test_a_baseline_stands_for_base(bbx: Command, base: Path, tmp_path: Path) -> None:
    head = _report(tmp_path / "head", 1.2)
    answer = bbx("compare", head, "--against-baseline", base / "report.json", "--json")
    assert answer.code == 4
    assert answer.document["base"]["report"].endswith("base/report.json")
    assert answer.document["pairs"] == bbx("compare", base, head, "--json").document["pairs"]


def test_a_larger_effect_and_a_chosen_row(bbx: Command, base: Path, tmp_path: Path) -> None:
    head = _report(tmp_path / "head", 1.2)
    assert bbx("compare", base, head, "--effect", "0.5").code == 0
    answer = bbx("compare", base, head, "--key", KEYS[1], "--json")
    assert (answer.code, [pair["key"] for pair in answer.document["pairs"]]) == (0, [KEYS[1]])


def test_the_table_says_what_was_found_and_what_it_is_worth(bbx: Command, base: Path, tmp_path: Path) -> None:
    lines = bbx("compare", base, _report(tmp_path / "head", 1.2)).stdout.splitlines()
    assert lines[1].startswith(KEYS[0])
    assert "slower" in lines[1]
    assert lines[-2] == "1 slower, 1 same; a change of 5% or more counts."
    assert "weaker guarantee" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["base"], 2, "1 paths were given, and 2 are needed."),
        (["base", "base", "--against-baseline", "base"], 2, "2 paths were given, and 1 are needed."),
        (["base", "base", "--key", "one/ort-cpu/fp32/b2/single"], 2, KEYS[0]),
        (["base", "nowhere"], 1, "There is no file nowhere/report.json."),
        (["base", "base", "--effect", "5"], 2, "--effect is a share"),
        (["base", "base", "--threads", "1"], 2, "--threads belongs to the comparison of two artefacts."),
        (["base", "none.onnx"], 2, "one is an artefact and the other a report"),
    ],
)
@pytest.mark.usefixtures("in_folder")
def test_wrong_input_gets_one_line(bbx: Command, arguments: list[str], code: int, text: str) -> None:
    answer = bbx("compare", *arguments)
    assert answer.code == code
    assert text in answer.error


def test_a_truncated_report_and_a_newer_schema(bbx: Command, base: Path, tmp_path: Path) -> None:
    head = _report(tmp_path / "head", 1.0)
    file = head / "report.json"
    whole = file.read_text()
    file.write_text(whole[:200])
    cut = bbx("compare", base, head)
    assert (cut.code, "cut short" in cut.error) == (1, True)
    file.write_text(whole.replace(SCHEMA, "bbx/9", 1))
    newer = bbx("compare", base, head)
    assert (newer.code, "pip install --upgrade bbx" in newer.error) == (1, True)
