"""How large `report.html` of 500 rows is, and how fast it opens and sorts; a part of `bench_self`.

Seconds to write all files of the report; bytes of the page; milliseconds from the start of its loading, or
from a click on a header, until everything is drawn: by the clock, and of the CPU in the page's main thread,
which other work on the machine does not lengthen. Needs Chromium.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from bbx.benchmarks import reports
from tests import chromium

ROUNDS = 5

FRAME = "requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun)))"

OPENED = f"new Promise(done => {{ const begun = 0; {FRAME} }})"


def sorting(column: int) -> str:
    """JavaScript that clicks on a header and gives the milliseconds until the page is drawn."""
    click = f"document.querySelector('thead th:nth-child({column}) button').click()"
    return f"new Promise(done => {{ const begun = performance.now(); {click}; {FRAME} }})"


def cpu_ms(page: chromium.Page) -> float:
    """What the page's main thread has used of the CPU since it was loaded."""
    found = {each["name"]: each["value"] for each in page.send("Performance.getMetrics")["metrics"]}
    return float(found["TaskDuration"]) * 1e3


def measured(folder: Path, browser: str) -> dict[str, Any]:
    """Everything about the report in a folder."""
    document = reports.read_report(folder)
    begun = time.perf_counter()
    reports.write(document, folder)
    written_s = time.perf_counter() - begun
    opened, sorted_by = [], []
    with chromium.page(browser) as page:
        page.send("Performance.enable", timeDomain="threadTicks")
        for _ in range(ROUNDS):
            page.open_afresh(folder / "report.html")
            opened.append({"clock": page.value(OPENED), "cpu": cpu_ms(page)})
            for column in (1, 5, 9):
                before = cpu_ms(page)
                sorted_by.append({"clock": page.value(sorting(column)), "cpu": cpu_ms(page) - before})
    return {
        "rows": len(document["results"]),
        "write_s": written_s,
        "page_bytes": (folder / "report.html").stat().st_size,
        "open_ms": medians(opened),
        "sort_ms": medians(sorted_by),
    }


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
