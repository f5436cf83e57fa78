"""What reports say of rows that were measured under other conditions than one request at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bbx.benchmarks import reports
from bbx.benchmarks.journal import Document
from bbx.benchmarks.plan import Row
from bbx.benchmarks.reports.history import history
from bbx.benchmarks.reports.load import read_report
from bbx.benchmarks.reports.markdown import markdown
from bbx.benchmarks.reports.threads import tuned
from bbx.benchmarks.stored import compare_rows, stored
from bbx.cli.live_table import cells
from bbx.errors import ArtifactError
from tests import chromium
from tests.sample_reports import made, measured, row

PHASE = {"median": 2e6, "ci95": [1_900_000, 2_100_000], "samples": 50}
SEARCH = {
    "alone_ns": 9e6,
    "stopped": "converged",
    "trials": [
        {"rate_per_s": 84.0, "requests": 80, "p99_ns": 70_000_000, "met": False},
        {"rate_per_s": 80.0, "requests": 662, "p99_ns": 48_000_000, "met": True},
    ],
}


def conditioned(**changes: Any) -> Document:
    """A row with the key that its conditions give it."""
    identity = {"scenario": "single", "cache": "hot", "residence": "pageable", "slo_ns": None}
    identity |= {name: changes.pop(name) for name in tuple(changes) if name in identity}
    asked = changes.pop("threads_asked", None)
    found = row(**changes)
    planned = Row(
        found["subject"], found["runtime"], found["precision"], found["batch"], threads=asked, **identity
    )
    return found | identity | {"threads_asked": asked, "device": "cpu", "key": planned.key}


def latency(median_ms: float) -> dict[str, Any]:
    return row()["latency_ns"] | {"median": median_ms * 1e6}


SERVER = conditioned(scenario="server", slo_ns=50_000_000, throughput_per_s=80.0, search=SEARCH)
OFFLINE = conditioned(scenario="offline", throughput_per_s=200.0, in_flight=4)
SWEEP = [
    conditioned(latency_ns=latency(10.0)),
    conditioned(threads_asked=1, latency_ns=latency(8.0)),
    conditioned(threads_asked=2, latency_ns=latency(16.0)),
]


def test_conditions_have_a_column_where_there_are_several() -> None:
    assert "| model | runtime | precision | batch | median |" in markdown(made(conditioned()))
    page = markdown(made(conditioned(), SERVER, conditioned(cache="cold", verdict="unstable")))
    assert "| model | runtime | precision | batch | conditions | median |" in page
    assert "| resnet18 | ort-cpu | fp32 | 1 | server within 50 ms | 12.35 ms |" in page
    assert "| resnet18 | ort-cpu | fp32 | 1 | single, cold | 12.35 ms | unstable |" in page


def test_the_default_and_the_best_number_of_threads_stand_side_by_side() -> None:
    page = markdown(made(*SWEEP))
    assert "## Threads" in page
    assert "| resnet18 | ort-cpu | fp32 | 1 | 10.00 ms | 8.000 ms | 1 | 1.25 |" in page
    assert "## Threads" not in markdown(made(SWEEP[0]))


def test_a_sweep_has_a_default_and_something_else() -> None:
    [found] = tuned([*SWEEP, conditioned(batch=2), OFFLINE])
    assert (found.default["key"], found.best["key"]) == (SWEEP[0]["key"], SWEEP[1]["key"])
    assert tuned(SWEEP[1:]) == []
    assert tuned([SWEEP[0], SWEEP[0]]) == []
    [same] = tuned([SWEEP[0], SWEEP[2]])
    assert same.gain == 1.0


def test_a_rate_has_its_own_unit_in_the_history() -> None:
    plain, server, offline = history(made(conditioned(), SERVER, OFFLINE))
    assert (plain["unit"], plain["value"]) == ("ms", pytest.approx(12.345678))
    assert (server["unit"], server["value"]) == ("ms/image", pytest.approx(12.5))
    assert offline["value"] == pytest.approx(5.0)
    assert len({each["name"] for each in (plain, server, offline)}) == 3


def test_the_table_on_the_terminal_names_conditions() -> None:
    assert cells(SERVER)[3] == "server within 50 ms"
    assert cells(conditioned())[3] == "single"
    assert cells(SERVER | {"throughput_per_s": None})[7] == "–"


def test_a_report_of_before_has_rows_as_they_were(tmp_path: Path) -> None:
    """One request at a time, hot caches, from where the runtime wants its input: and so the same keys."""
    old = row()
    assert not {"cache", "residence", "slo_ns", "threads_asked"} & set(old)
    reports.write(made(old, row(runtime="rtx", device="cuda")), tmp_path)
    on_cpu, on_gpu = read_report(tmp_path)["results"]
    assert (on_cpu["scenario"], on_cpu["cache"], on_cpu["residence"]) == ("single", "hot", "pageable")
    assert on_gpu["residence"] == "device"
    assert on_cpu["key"] == conditioned()["key"]
    assert (on_cpu["slo_ns"], on_cpu["threads_asked"]) == (None, None)


def test_a_report_of_before_can_be_compared(tmp_path: Path) -> None:
    trace = np.random.default_rng(0).normal(1e7, 1e5, 500).astype(np.int64)
    new = {"cache": "hot", "residence": "pageable", "slo_ns": None, "threads_asked": None}
    for name, more in (("old", {}), ("new", new)):
        (tmp_path / name).mkdir()
        reports.write(made(measured(tmp_path / name, trace) | more), tmp_path / name)
    base, head = (stored(tmp_path / name) for name in ("old", "new"))
    found = compare_rows(base, head, list(head.rows), effect=0.05)
    assert [each.change for each in found.findings.values()] == ["same"]


def test_rows_of_several_processes_are_compared_by_processes(tmp_path: Path) -> None:
    """The traces say that head is a tenth slower, and are sure of it; the processes are not."""
    generator = np.random.default_rng(0)
    medians = {"base": [9e6, 11e6, 9.5e6, 10.5e6], "head": [9.9e6, 12.1e6, 10.5e6, 11.5e6]}
    for name, centres in medians.items():
        (tmp_path / name).mkdir()
        trace = np.concatenate([generator.normal(each, 1e4, 200) for each in centres]).astype(np.int64)
        rows = measured(tmp_path / name, trace) | {"processes": [{"median": each} for each in centres]}
        reports.write(made(rows), tmp_path / name)
    base, head = (stored(tmp_path / name) for name in medians)
    [found] = compare_rows(base, head, list(head.rows), effect=0.02).findings.values()
    assert found.change == "ambiguous"
    assert found.low < 1.0
    assert found.high > 1.2


def test_rates_are_not_compared_by_latencies_at_different_rates(tmp_path: Path) -> None:
    trace = np.random.default_rng(0).normal(1e7, 1e5, 500).astype(np.int64)
    server = measured(tmp_path, trace) | SERVER | {"samples": measured(tmp_path, trace)["samples"]}
    reports.write(made(server), tmp_path)
    report = stored(tmp_path)
    found = compare_rows(report, report, list(report.rows), effect=0.05)
    assert found.findings == {}
    assert "Its result is a rate" in found.not_compared[SERVER["key"]]


@pytest.mark.parametrize("phases", [{"pre": 2.0}, {"pre": {"median": 1.0}}, [1]])
def test_phases_that_are_none_are_refused(tmp_path: Path, phases: Any) -> None:
    reports.write(made(conditioned()), tmp_path)
    file = tmp_path / "report.json"
    document = json.loads(file.read_text())
    document["results"][0]["phases_ns"] = phases
    file.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match="phases_ns"):
        read_report(tmp_path)


def test_the_page_filters_by_conditions_and_shows_a_search(browser: chromium.Page, tmp_path: Path) -> None:
    image = conditioned(residence="image", phases_ns={"pre": PHASE, "compute": PHASE, "end_to_end": PHASE})
    reports.write(made(*SWEEP, SERVER, image), tmp_path)
    page = browser.open_afresh(tmp_path / "report.html")
    assert page.complaints == []
    heads = page.each("thead th", "node.innerText.trim()")
    assert "conditions" in heads
    page.choose("select[name=scenario]", "server")
    assert page.count("tr.row") == 1
    page.click("tr.row button")
    assert "84.00 requests/s: missed by 80; 80.00 requests/s: met by 662" in page.text("tr.detail")
    page.choose("select[name=scenario]", "")
    page.choose("select[name=threads]", "1")
    assert page.count("tr.row") == 1
    page.choose("select[name=threads]", "")
    page.choose("select[name=residence]", "image")
    assert page.count("tr.row") == 1
    assert page.count("#phases svg[role] rect") == 2


def test_the_page_draws_throughput_against_batch_by_conditions(
    browser: chromium.Page, tmp_path: Path
) -> None:
    multi = [conditioned(scenario="multi", batch=batch, throughput_per_s=50.0 * batch) for batch in (1, 2, 4)]
    reports.write(made(conditioned(), *multi, SERVER), tmp_path)
    page = browser.open_afresh(tmp_path / "report.html")
    assert page.count("#batches path.line") == 1
    assert page.count("#batches path.mark") >= 3


def test_a_page_of_plain_rows_has_no_column_of_conditions(browser: chromium.Page, tmp_path: Path) -> None:
    reports.write(made(conditioned(), conditioned(batch=2)), tmp_path)
    page = browser.open_afresh(tmp_path / "report.html")
    assert "conditions" not in page.each("thead th", "node.innerText.trim()")
    assert page.count("select[name=scenario]") == 0
