"""`report.html` in a real Chromium: what it asks for, what it draws, what a hand can do with it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import bbx
from bbx.benchmarks import reports
from tests import chromium
from tests.sample_reports import distance, failed, made, measured, row

ATTACK = '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=2"><!--'

PHASE = {"median": 1.0, "ci95": None, "samples": 3}


def shown(page: chromium.Page, column: str) -> list[str]:
    """The first line of each cell of a column, by its class or number."""
    return page.each(f"tr.row > {column}", "node.innerText.split('\\n')[0]")


def test_it_asks_for_nothing_and_complains_of_nothing(page: chromium.Page, report_folder: Path) -> None:
    assert page.requests == [(report_folder / "report.html").as_uri()]
    assert page.complaints == []
    assert page.value("document.title") == "Benchmark"
    assert page.text("#summary strong") == "48 of 55 rows are valid."


def test_warnings_come_before_numbers(page: chromium.Page) -> None:
    said = page.each("#cautions p", "[node.className, node.textContent]")
    assert said[0] == [
        "warning",
        "7 rows of 55 may not be quoted: 6 unstable, 1 failed. Each says why, and what to do about it.",
    ]
    [warnings] = page.each("#cautions", "node.getBoundingClientRect().bottom")
    [table] = page.each("#rows table", "node.getBoundingClientRect().top")
    assert warnings < table


def test_nothing_of_a_report_is_markup_or_runs(browser: chromium.Page, tmp_path: Path) -> None:
    trace = np.arange(1000, 1100, dtype=np.int64)
    text = {"verdict": "unstable", "text": ATTACK, "remedy": ATTACK}
    evil = dict.fromkeys(("runtime", "precision", "command", "verdict"), ATTACK)
    rows = [
        measured(tmp_path, trace, subject=ATTACK),
        row(
            subject="x",
            **evil,
            reasons=[text],
            accuracy={ATTACK: 0.5},
            phases_ns={ATTACK: PHASE},
            stopped=ATTACK,
        ),
    ]
    reports.write(made(*rows, variables={ATTACK: ATTACK}) | {"profile": ATTACK, "notes": [ATTACK]}, tmp_path)
    page = browser.open_afresh(tmp_path / "report.html")
    page.click("tr.row:nth-child(1) button")
    page.click("tr.row:last-child button")
    assert shown(page, "th")[0].startswith(ATTACK)
    assert page.count("img") == 0
    assert page.value("typeof window.pwned") == "undefined"
    assert page.complaints == []


def test_the_page_itself_forbids_what_was_not_written_into_it(page: chromium.Page) -> None:
    page.value("((s) => { s.id = 'late'; document.body.append(s) })(document.createElement('p'))")
    attempt = "try { document.querySelector('#late').innerHTML = '<b>' } catch (error) { return error.name }"
    assert page.value(f"(() => {{ {attempt} }})()") == "TypeError"
    page.value("new Promise(done => fetch('https://example.org/').catch(done))")
    assert any("Content Security Policy" in text for text in page.complaints)


def test_a_header_sorts_and_the_next_click_turns_it_round(page: chromium.Page) -> None:
    header = "thead th:nth-child(5)"
    page.click(f"{header} button")
    medians = shown(page, ".median")
    assert medians[-1] == "–"
    numbers = [float(text) for text in medians[:-1]]
    assert (len(numbers), numbers) == (54, sorted(numbers))
    assert page.each(header, "node.ariaSort")[0] == "ascending"
    page.click(f"{header} button")
    assert [float(text) for text in shown(page, ".median")[:-1]] == numbers[::-1]
    assert shown(page, ".median")[-1] == "–"
    assert page.each(header, "node.ariaSort")[0] == "descending"
    page.click("thead th:nth-child(1) button")
    assert shown(page, "th") == sorted(shown(page, "th"))
    assert page.count("[aria-sort]") == 1


def test_the_keyboard_is_enough(page: chromium.Page) -> None:
    page.value("document.querySelector('thead th:nth-child(4) button').focus()")
    page.press("Tab")
    page.press("Enter")
    assert page.text("[aria-sort]") == "median, ms"
    page.value("document.querySelector('tr.row th button').focus()")
    page.press("Enter")
    assert page.value("document.activeElement.getAttribute('aria-expanded')") == "true"
    page.press("Tab")
    assert page.value("document.activeElement.textContent") == "Copy"


def test_filters_choose_rows_in_the_table_and_in_every_chart(page: chromium.Page) -> None:
    before = page.count("#quality .mark")
    page.click("input[type=search]")
    page.type("Swin ORT")
    assert set(shown(page, "th")) == {"swin_t"}
    assert set(shown(page, "td:nth-child(2)")) == {"ort-cpu"}
    assert page.text("output") == "3 of 55 rows"
    assert page.count(".strips > canvas") == 3
    assert page.count("#batches .line") == 1
    assert page.count("#quality svg[role] .mark") == 3 < before
    page.value("document.querySelector('input').value = ''")
    page.type(" ")
    page.choose("#filters [name=verdict]", "unstable")
    assert set(shown(page, ".grade")) == {"unstable"}
    page.choose("#filters [name=runtime]", "eager")
    assert 0 < len(shown(page, "th")) < 5
    page.choose("#filters [name=batch]", "16")
    page.choose("#filters [name=verdict]", "failed")
    assert shown(page, "th") == []
    assert page.text("#latency .aside") == "None of these rows has samples."
    assert page.complaints == []


def test_every_chart_has_drawn(page: chromium.Page) -> None:
    assert page.count("tr.row .spark path") == 54
    assert page.count("#quality svg[role] .mark") == 54
    assert page.count("#batches .line") == 12
    assert page.count("#batches svg[role] .mark") == 36
    assert page.count(".strips > canvas") == 40
    assert page.all_drawn(".strips canvas:first-of-type")
    page.value("document.querySelector('#machines').scrollIntoView({block: 'end'})")
    page.settle()
    assert page.all_drawn("#latency canvas")
    page.click(".more button")
    assert page.count(".strips > canvas") == 54
    assert page.value("document.querySelector('#phases').hidden")


def test_what_is_not_known_leaves_no_word_of_the_language(browser: chromium.Page, tmp_path: Path) -> None:
    bare = row(subject="bare", load={"seconds": 1.0}, weights=None)
    reports.write(made(bare, failed(), measured(tmp_path, np.arange(40, dtype=np.int64))), tmp_path)
    page = browser.open_afresh(tmp_path / "report.html")
    for number in (1, 2, 3):
        page.value(f"document.querySelectorAll('tr.row button')[{number - 1}].click()")
    assert page.count(".detail") == 3
    page.choose("#latency select", "ms")
    assert not re.search(r"\b(null|undefined|NaN|Infinity|object)\b", page.each("main", "node.innerText")[0])


def test_the_scale_of_the_strips_can_be_milliseconds(page: chromium.Page) -> None:
    axis = ".strips svg text", "node.textContent"
    assert "1.6" in page.each(*axis)
    page.choose("#latency select", "ms")
    assert page.each(*axis)[-1] == "ms"
    assert page.all_drawn("#latency canvas")


def test_a_row_opens_with_its_reasons_its_samples_and_its_command(page: chromium.Page) -> None:
    page.choose("#filters [name=verdict]", "unstable")
    page.click("tr.row button")
    [detail] = page.each(".detail", "node.innerText")
    assert "unstable: There are two speeds. Pin the threads." in detail
    assert "bbx bench convnext_tiny --runtime eager --batch 1" in detail
    assert "200, converged, by perf_counter_ns" in detail
    assert "1.98 of 2 cores busy with this row, 0.015 with other work" in detail
    assert "undefined" not in detail
    assert page.all_drawn(".detail canvas")
    page.click(".detail .command button")
    assert page.text(".command button") in ("Copied", "Selected")
    assert (
        page.value("getSelection().toString()").strip() == "bbx bench convnext_tiny --runtime eager --batch 1"
    )
    page.click("tr.row button")
    assert page.count(".detail") == 0


def test_a_point_of_a_chart_opens_its_row(page: chromium.Page) -> None:
    page.click("#quality svg[role] .mark")
    assert page.count(".detail") == 1
    assert page.value("document.activeElement.closest('tr').nextSibling.className") == "detail"


QUALITY = [  # latency in ms, accuracy, verdict, and whether it is on the front
    (1.0, 0.60, "valid", True),
    (2.0, 0.59, "valid", False),
    (2.0, 0.70, "valid", True),
    (2.5, 0.90, "unstable", False),
    (3.0, 0.70, "valid", False),
    (4.0, 0.95, "valid", True),
]


def test_the_front_has_the_rows_that_no_valid_row_beats(browser: chromium.Page, tmp_path: Path) -> None:
    rows = [
        row(
            subject=f"m{number}",
            latency_ns=row()["latency_ns"] | {"median": ms * 1e6},
            accuracy={"top-1": accuracy},
            verdict=verdict,
            parity=distance(10.0**-number),
        )
        for number, (ms, accuracy, verdict, _) in enumerate(QUALITY)
    ]
    reports.write(made(*rows), tmp_path)
    page = browser.open_afresh(tmp_path / "report.html")
    front = "paretoFront(report.rows.filter(row => row.grade === 'valid')).map(row => row.subject)"
    wanted = [f"m{number}" for number, (*_, on) in enumerate(QUALITY) if on]
    assert page.value(front) == wanted
    assert page.text("#quality b") == "Accuracy against latency"
    assert len(re.findall("[MH]", page.each(".front", "node.getAttribute('d')")[0])) == 3
    assert page.count("#quality .hollow") == 1
    page.choose("#quality select", "distance from the reference")
    assert page.value(front) == ["m0", "m2", "m4", "m5"]


def test_time_by_phase_is_stacked_in_the_order_of_the_phases(browser: chromium.Page, tmp_path: Path) -> None:
    medians = {"end_to_end": 7e6, "compute": 4e6, "pre": 2e6, "post": 1e6, "enqueue": 3e6}
    phases = {name: PHASE | {"median": median} for name, median in medians.items()}
    reports.write(made(row(phases_ns=phases), row(subject="other")), tmp_path)
    page = browser.open_afresh(tmp_path / "report.html")
    place = "[node.x.baseVal.value, node.width.baseVal.value, node.textContent]"
    bars = page.each("#phases svg[role] rect", place)
    assert [text.split(", ")[-1] for *_, text in bars] == [
        "pre: 2.000 ms",
        "compute: 4.000 ms",
        "post: 1.000 ms",
    ]
    widths = [width + 0.5 for _, width, _ in bars]
    assert np.allclose(np.array(widths) / sum(widths), [2 / 7, 4 / 7, 1 / 7], atol=0.01)
    assert bars[0][0] < bars[1][0] < bars[2][0]
    assert "7.000 ms" in page.text("#phases svg[role] .strong")


def test_several_machines_and_a_comparison_are_shown(browser: chromium.Page, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        trace = np.arange(1000, 1100, dtype=np.int64) * 1000
        reports.write(made(measured(tmp_path / name, trace), fingerprint=name * 64), tmp_path / name)
    merged = bbx.report([tmp_path / "a", tmp_path / "b"], out=tmp_path / "out")
    merged["comparison"] = [{"key": row()["key"], "ratio": 1.075, "ci95": [1.05, 1.1], "verdict": "slower"}]
    reports.write(merged, tmp_path / "out")
    page = browser.open_afresh(tmp_path / "out" / "report.html")
    assert len(set(shown(page, "td:last-child"))) == 2
    assert page.text(".slower") == "+7.5 % slower"
    assert page.count("#machines dl") == 2
    assert "2 different environments" in page.text("#cautions")
