"""The report as JSON, Markdown, JUnit XML and history file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bbx.benchmarks import reports
from bbx.benchmarks.reports.document import distance_from_reference
from bbx.benchmarks.reports.history import history
from bbx.benchmarks.reports.junit import junit
from bbx.benchmarks.reports.markdown import LONGEST, markdown
from bbx.errors import ArtifactError
from tests.sample_reports import failed, made, row

DOUBTED = row(
    runtime="eager",
    verdict="contended",
    reasons=[{"verdict": "contended", "text": "Others were busy.", "remedy": "Stop them."}],
)
FAILED = failed()
NOT_RIGHT = failed("parity_failed", "logits is too far.", runtime="tensorrt")
NOT_PRECISE = failed(text="CheckFailed: FP16 was asked for, and the engine is FP32.", precision="fp16")


def test_the_document_follows_the_contract() -> None:
    found = made(row(), DOUBTED)
    assert found["schema"] == "bbx/1"
    assert found["complete"]
    assert found["verdicts"] == {"valid": 1, "contended": 1}
    assert [each["runtime"] for each in found["results"]] == ["ort-cpu", "eager"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_only_valid_rows_stand_in_the_headline_table() -> None:
    headline, _, doubts = markdown(made(row(), DOUBTED, FAILED)).partition("## Not valid")
    assert "1 of 3 rows are valid" in headline
    assert "| resnet18 | ort-cpu | fp32 | 1 | 12.35 ms | 12.30 – 12.40 | 12.50 ms | – |" in headline
    assert "| 80.65 | 256 MiB | pass |" in headline
    assert "eager" not in headline
    assert "| resnet18 | eager | fp32 | 1 | 12.35 ms | contended | contended: Others were busy." in doubts
    assert "| resnet18 | rtx | fp32 | 1 | – | failed | failed: BuildError: no parser |" in doubts


def test_no_valid_row_is_said_and_not_hidden() -> None:
    page = markdown(made(DOUBTED))
    assert "No row is valid" in page
    assert "0 of 1 rows are valid" in page


def test_random_weights_cannot_be_missed() -> None:
    page = markdown(made(row(weights="random")))
    assert "resnet18 (random weights)" in page
    assert "1 model has random weights" in page


def test_a_stopped_run_says_so_and_which_rows_are_missing() -> None:
    found = made(row(), planned=[row()["key"], "a", "b"])
    assert (found["complete"], found["planned"], found["missing"]) == (False, 3, ["a", "b"])
    assert "Stopped after 1 of 3 rows." in markdown(found)


def test_what_failed_a_check_is_said_first() -> None:
    lines = markdown(made(DOUBTED, NOT_RIGHT)).splitlines()
    said = [line for line in lines if line.startswith("- **")]
    assert said[0].startswith(
        "- **failure** 1 row did not pass a check of parity or precision: resnet18/tensorrt"
    )
    assert said[1].startswith("- **warning** No row is valid")


def test_nothing_in_a_report_becomes_markup() -> None:
    page = markdown(made(row(subject="a|b<script>[x](y)*z*`&", command="|")))
    assert r"| a\|b&lt;script&gt;\[x\](y)\*z\*\`&amp; | ort-cpu |" in page
    assert "| rtx | No \\| GPU. | Buy one. |" in page


def test_a_long_report_is_cut_where_a_line_says_so_and_still_has_every_section() -> None:
    valid = [row(subject=f"model_{number:04}") for number in range(1500)]
    doubted = [DOUBTED | {"key": str(number)} for number in range(1500)]
    page = markdown(made(*valid, *doubted))
    assert 0.9 * LONGEST < len(page) <= LONGEST
    shown = page.count("| ort-cpu |"), page.count("| eager |")
    assert all(100 < count < 1500 for count in shown)
    for count in shown:
        assert f"**{1500 - count} more rows do not fit here:** see `report.html`." in page
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Not valid",
        "## Left out",
        "## Environment",
        "## How to read this",
    ]


def test_one_endless_error_does_not_fill_the_page() -> None:
    assert len(markdown(made(row(), failed(text="x" * 100_000)))) < 10_000


def cases(document: dict[str, Any]) -> dict[str, list[str]]:
    """The outcomes of each test case, by its name; none for one that passed."""
    root = ElementTree.fromstring(junit(document))
    return {
        f"{case.get('classname')} {case.get('name')}": [each.tag for each in case]
        for case in root.iter("testcase")
    }


def test_each_row_is_a_test_case() -> None:
    found = made(
        row(), DOUBTED, FAILED, NOT_RIGHT, NOT_PRECISE, planned=[row()["key"], "z/eager/fp32/b1/single"]
    )
    assert cases(found) == {
        "resnet18 ort-cpu/fp32/b1/single": [],
        "resnet18 eager/fp32/b1/single": ["error"],
        "resnet18 rtx/fp32/b1/single": ["error"],
        "resnet18 tensorrt/fp32/b1/single": ["failure"],
        "resnet18 rtx/fp16/b1/single": ["failure"],
        "left out rtx": ["skipped"],
        "not measured z/eager/fp32/b1/single": ["skipped"],
    }


def test_a_suite_counts_its_cases_and_says_what_to_do() -> None:
    root = ElementTree.fromstring(junit(made(row(), DOUBTED, NOT_RIGHT)))
    assert {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    [error] = root.iter("error")
    assert (error.get("type"), error.get("message")) == ("contended", "contended: Others were busy.")
    assert error.text == "contended: Others were busy.\nStop them.\nbbx bench resnet18"
    assert next(root.iter("testcase")).get("time") == "3.250"


def test_a_regression_is_a_failure() -> None:
    pair = {"key": row()["key"], "ratio": 1.075, "ci95": [1.05, 1.1], "verdict": "slower"}
    found = made(row(), row(subject="other")) | {"comparison": [pair]}
    assert cases(found)["resnet18 ort-cpu/fp32/b1/single"] == ["failure"]
    assert cases(found)["other ort-cpu/fp32/b1/single"] == []
    assert "- **failure** 1 row became slower: resnet18/ort-cpu/fp32/b1/single (+7.5%)." in markdown(found)


def test_xml_holds_whatever_a_name_or_an_error_holds() -> None:
    found = made(failed(subject='<a b="&">\x00\x1b[31m\ud800', text="]]>\x08<!--"))
    [case, _] = ElementTree.fromstring(junit(found)).iter("testcase")
    assert case.get("classname") == '<a b="&">\ufffd\ufffd[31m\ufffd'
    assert case[0].get("message") == "failed: ]]>\ufffd<!--"


def test_the_history_has_valid_rows_only() -> None:
    [entry] = history(made(row(), DOUBTED, FAILED))
    assert entry == {
        "name": "resnet18/ort-cpu/fp32/b1/single",
        "unit": "ms",
        "value": 12.345678,
        "range": "± 0.05432",
        "extra": "80.65 images/s\nbbx bench resnet18",
    }


def test_rows_of_several_machines_have_a_history_each() -> None:
    found = made(row()) | {"results": [row(environment="a" * 64), row(environment="b" * 64)]}
    machines = [found["environment"] | {"fingerprint": letter * 64} for letter in "ab"]
    names = [entry["name"] for entry in history(found | {"environments": machines})]
    assert [name.partition(" @ ")[0] for name in names] == ["resnet18/ort-cpu/fp32/b1/single"] * 2
    assert names[0].endswith("(aaaaaaaa)")
    assert names[1].endswith("(bbbbbbbb)")


@pytest.mark.parametrize(
    ("parity", "distance"),
    [
        (None, None),
        ({"cases": []}, None),
        ({"verdict": "inconclusive", "cases": [{"outputs": {"a": {"rel_l2": 0.0}}}]}, None),
        (
            {
                "cases": [
                    {"outputs": {"a": {"rel_l2": 0.1}, "b": {"rel_l2": 0.3}}},
                    {"outputs": {"a": {"rel_l2": 0.2}}},
                ]
            },
            0.3,
        ),
        ({"cases": [{"outputs": {"a": {"rel_l2": None}, "b": {"rel_l2": 0.3}}}]}, None),
        ({"cases": [{"detections": {"reference": 10, "candidate": 12, "matched": 9}}]}, 0.25),
        ({"cases": [{"detections": {"reference": 0, "candidate": 0, "matched": 0}}]}, 0.0),
    ],
)
def test_the_distance_from_the_reference(parity: Any, distance: float | None) -> None:
    assert distance_from_reference(row(parity=parity)) == pytest.approx(distance)


def test_every_file_is_written_and_no_other(tmp_path: Path) -> None:
    found = made(row())
    reports.write(found, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == found
    assert (tmp_path / "out" / "report.md").read_text() == markdown(found)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(reports.FILES)


def test_a_folder_that_cannot_be_written_is_an_error_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"report\.json cannot be written"):
        reports.write(made(row()), tmp_path / "file")
