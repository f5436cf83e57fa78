"""A browser, and a report that it opens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bbx.benchmarks import reports
from tests import chromium
from tests.sample_reports import failed, written


@pytest.fixture(scope="session")
def browser() -> Iterator[chromium.Page]:
    """A page of a real Chromium; where there is none the test is skipped, and says so."""
    found = chromium.found()
    if found is None:
        pytest.skip(f"needs Chromium: there is no {', '.join(chromium.NAMES)}")
    with chromium.page(found) as page:
        yield page


@pytest.fixture(scope="session")
def report_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 55 rows, one of which failed."""
    folder = tmp_path_factory.mktemp("report")
    document = written(folder, rows=54)
    document["results"].append(
        failed(subject="broken", text="BuildError: no parser", command="bbx bench broken")
    )
    reports.write(document, folder)
    return folder


@pytest.fixture
def page(browser: chromium.Page, report_folder: Path) -> chromium.Page:
    """That report, opened on a wide window in light colours."""
    return browser.open_afresh(report_folder / "report.html")
