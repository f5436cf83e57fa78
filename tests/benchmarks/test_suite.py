from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from bbx.benchmarks.artefacts import Artefact, Ready
from bbx.benchmarks.forecast import export_seconds, row_seconds
from bbx.benchmarks.journal import Journal
from bbx.benchmarks.measure import PROFILES
from bbx.benchmarks.plan import Plan, Row, Subject
from bbx.benchmarks.suite import Setting, Suite
from bbx.errors import BbxError, BuildError, Cancelled, CheckFailed, ExhaustedError, UnavailableError
from bbx.models.spec import ModelSpec

ROWS = tuple(Row("resnet18", "ort-cpu", "fp32", batch) for batch in (1, 2, 4))
SUBJECTS = {"resnet18": Subject("resnet18", spec=ModelSpec("resnet18"))}


@dataclass
class Bench:
    """A suite whose rows are answered here; counts what it measures."""

    out: Path
    sha256: str = "a" * 64
    environment: str = "machine"
    spec: ModelSpec = field(default_factory=lambda: ModelSpec("resnet18"))
    errors: dict[str, BaseException] = field(default_factory=dict)
    prepare_errors: dict[str, BbxError] = field(default_factory=dict)
    measured: list[str] = field(default_factory=list)
    told: list[tuple[int, int, float | None, str]] = field(default_factory=list)
    absent: dict[str, BbxError] = field(default_factory=dict)
    made_ahead: list[str] = field(default_factory=list)
    budget_s: float | None = None

    def run(self, *, resume: bool = False, rows: tuple[Row, ...] = ROWS) -> list[dict[str, Any]]:
        setting = Setting(self.out, "quick", resume, self.environment, budget_s=self.budget_s)
        subjects = {"resnet18": Subject("resnet18", spec=self.spec)}
        suite = Suite(subjects, setting, self._prepare, self._execute, self._make_ahead, absent=self.absent)
        self.measured.clear()
        return list(suite.run(Plan(rows, ()), self._hear))

    def _hear(self, done: int, total: int, eta_s: float | None, row: dict[str, Any]) -> None:
        self.told.append((done, total, eta_s, row["key"]))

    def _make_ahead(self, wanted: Sequence[tuple[Subject, Row]]) -> None:
        self.made_ahead += [row.key for _, row in wanted]

    def _prepare(self, subject: Subject, row: Row) -> Ready:
        if row.key in self.prepare_errors:
            raise self.prepare_errors[row.key]
        return Ready(Artefact(self.out / "resnet18.onnx", self.sha256), None)

    def _execute(self, request: dict[str, Any]) -> dict[str, Any]:
        json.dumps(request)
        self.measured.append(request["key"])
        if request["key"] in self.errors:
            raise self.errors[request["key"]]
        facts = {"verdict": "valid", "latency_ns": {"median": 1}, "reasons": []}
        return {"key": request["key"], "profile": request["profile"], **facts}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_every_row_is_measured_in_order_and_stands_on_disk(bench: Bench) -> None:
    results = bench.run()
    assert bench.measured == [row.key for row in ROWS]
    assert list(Journal(bench.out, resume=True).read().values()) == results


def test_the_listener_hears_of_each_row_with_the_time_left(bench: Bench) -> None:
    bench.run()
    assert [(done, total, key) for done, total, _, key in bench.told] == [
        (index + 1, 3, row.key) for index, row in enumerate(ROWS)
    ]
    assert bench.told[0][2] is not None
    assert bench.told[-1][2] == 0


def test_resume_measures_nothing_again(bench: Bench) -> None:
    first = bench.run()
    assert bench.run(resume=True) == first
    assert bench.measured == []
    assert len(bench.run()) == len(bench.measured) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda bench: replace(bench, sha256="b" * 64),
        lambda bench: replace(bench, environment="another machine"),
        lambda bench: replace(bench, spec=ModelSpec("resnet18", num_classes=7)),
    ],
)
def test_resume_measures_again_what_has_changed(bench: Bench, change: Callable[[Bench], Bench]) -> None:
    bench.run()
    changed = change(bench)
    changed.run(resume=True)
    assert len(changed.measured) == 3


def test_resume_sees_that_a_checkpoint_was_exchanged(bench: Bench, tmp_path: Path) -> None:
    checkpoint = tmp_path / "net.pth"
    checkpoint.write_bytes(b"one")
    bench.spec = ModelSpec("resnet18", weights=str(checkpoint))
    bench.run()
    bench.run(resume=True)
    assert bench.measured == []
    checkpoint.write_bytes(b"two")
    bench.run(resume=True)
    assert len(bench.measured) == 3


def test_a_factory_of_the_users_own_is_always_measured_again(bench: Bench) -> None:
    bench.spec = ModelSpec("package.module:factory")
    bench.run()
    bench.run(resume=True)
    assert len(bench.measured) == 3


def test_a_failing_row_is_a_row_and_not_the_end(bench: Bench) -> None:
    bench.errors[ROWS[1].key] = ExhaustedError("Out of memory.", hint="Use a smaller batch.")
    results = bench.run()
    assert [row["verdict"] for row in results] == ["valid", "failed", "valid"]
    failed = results[1]
    assert failed["reasons"] == [
        {"verdict": "failed", "text": "ExhaustedError: Out of memory.", "remedy": "Use a smaller batch."}
    ]
    assert (failed["latency_ns"], failed["samples"]) == (None, None)
    assert failed["command"].startswith("bbx bench resnet18 --runtime ort-cpu")


ROWS_S = sum(row_seconds(row, PROFILES["quick"]) for row in ROWS)
ABSENT = UnavailableError("rtx: There is no GPU.", hint="Buy one.")


def test_rows_of_a_runtime_that_is_not_here_fail_and_nothing_is_made_for_them(bench: Bench) -> None:
    bench.absent["rtx"] = ABSENT
    there = Row("resnet18", "rtx", "fp16", 1)
    failed, *others = bench.run(rows=(there, *ROWS))
    assert [row["verdict"] for row in (failed, *others)] == ["failed", "valid", "valid", "valid"]
    assert failed["reasons"] == [
        {"verdict": "failed", "text": "UnavailableError: rtx: There is no GPU.", "remedy": "Buy one."}
    ]
    assert failed["exit_code"] == 5
    assert bench.made_ahead == bench.measured == [row.key for row in ROWS]
    assert there.key in Journal(bench.out, resume=True).read()
    seconds = [eta_s for _, _, eta_s, _ in bench.told]
    assert seconds[0] == pytest.approx(ROWS_S)
    assert seconds[-1] == 0


def test_they_take_nothing_from_a_budget(bench: Bench) -> None:
    bench.absent["rtx"] = ABSENT
    missing = tuple(Row("resnet18", "rtx", "fp16", batch) for batch in (1, 2, 4))
    bench.budget_s = export_seconds("resnet18") + ROWS_S + 0.1
    assert [row["verdict"] for row in bench.run(rows=(*missing, *ROWS))] == ["failed"] * 3 + ["valid"] * 3
    bench.budget_s = 1e-9
    assert [row["verdict"] for row in bench.run(rows=(*missing, *ROWS))] == ["failed"] * 3
    assert bench.measured == []


def test_an_artefact_that_cannot_be_made_fails_the_rows_that_need_it(bench: Bench) -> None:
    bench.prepare_errors[ROWS[0].key] = BuildError("no parser for NonZero")
    assert [row["verdict"] for row in bench.run()] == ["failed", "valid", "valid"]
    assert bench.measured == [ROWS[1].key, ROWS[2].key]


def test_an_artefact_with_wrong_answers_fails_parity(bench: Bench) -> None:
    parity = {"verdict": "fail", "reasons": ["too far"], "cases": []}
    bench.prepare_errors[ROWS[0].key] = CheckFailed("not the same", document={"parity": parity})
    row = bench.run()[0]
    assert (row["verdict"], row["parity"]) == ("parity_failed", parity)


def test_resume_tries_failed_rows_again(bench: Bench) -> None:
    bench.errors[ROWS[1].key] = BbxError("the device is gone")
    bench.run()
    bench.errors.clear()
    assert [row["verdict"] for row in bench.run(resume=True)] == ["valid"] * 3
    assert bench.measured == [ROWS[1].key]


@pytest.mark.parametrize("stop", [Cancelled("Cancelled."), KeyboardInterrupt()])
def test_the_user_stops_it_and_finished_rows_stay(bench: Bench, stop: BaseException) -> None:
    bench.errors[ROWS[2].key] = stop
    with pytest.raises(type(stop)):
        bench.run()
    assert list(Journal(bench.out, resume=True).read()) == [ROWS[0].key, ROWS[1].key]
    bench.errors.clear()
    bench.run(resume=True)
    assert bench.measured == [ROWS[2].key]
