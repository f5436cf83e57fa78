"""How `report.html` looks: contrast, dark mode, a telephone, names for a screen reader, 500 rows.

With BBX_PICTURE_OF=FOLDER, of `bbx bench`, the picture of that report is written to `docs/report.png`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import bbx
from tests import chromium
from tests.sample_reports import written_large

DOCS = Path(__file__).parents[2] / "docs"

CONTRAST = """selector => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = node => {
    for (; node; node = node.parentElement) {
      const colour = channels(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const node = document.querySelector(selector);
  const style = getComputedStyle(node);
  const ink = light(channels(node instanceof SVGElement ? style.fill : style.color));
  const paper = light(ground(node));
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
}"""


READ = (
    "#summary", "#summary strong", "#cautions .warning b", "#cautions .note", "label", "output",
    "thead button", "tr.row th", "tr.valid .median", "tr.valid small", "tr.valid .grade",
    "tr.doubted .figures", "tr.doubted .grade", ".detail b", ".detail small", ".detail dt", ".detail dd",
    ".command code", ".command button", "#quality p", "#quality text", "#batches text", ".strips span",
    ".reading", "#left-out td", "#machines dd",
)  # fmt: skip


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_can_be_read(page: chromium.Page, dark: bool) -> None:
    page.look(dark=dark)
    page.click("tr.row.doubted button")
    for selector in READ:
        ratio = page.value(f"({CONTRAST})({selector!r})")
        assert ratio >= 4.5, f"{selector}: {ratio:.2f}"
    paper = page.value("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(", "))) < 384) == dark
    assert page.all_drawn(".detail canvas")


def test_it_fits_a_telephone(page: chromium.Page) -> None:
    page.look(width=400, height=800)
    page.click("tr.row button")
    assert page.value("document.documentElement.scrollWidth") <= 400
    assert page.each("#rows", "node.scrollWidth <= node.clientWidth") == [True]
    texts = "p, td, th, dd, dt, small, li, label, text, button"
    assert min(page.each(texts, "parseFloat(getComputedStyle(node).fontSize)")) >= 11
    assert page.each("#rows thead th", "node.textContent") == ["model", "median, ms", "verdict"]
    assert page.each("tr.row .narrow", "node.innerText")[0] == "eager · fp32 · batch 1"
    right = "node.closest('#rows') ? 0 : node.getBoundingClientRect().right"
    assert max(page.each("main *", right)) <= 400
    assert page.all_drawn(".strips canvas:first-of-type")
    assert page.each("#quality svg", "node.getBoundingClientRect().width")[0] > 350


def test_everything_has_a_name_for_those_who_hear_it(page: chromium.Page) -> None:
    page.click("tr.row button")
    assert all(page.each("input, select", "node.labels.length"))
    things = "button, [role=img], [role=region], [role=group]"
    named = "!!(node.ariaLabel || node.getAttribute('aria-labelledby') || node.innerText)"
    assert all(page.each(things, named))
    assert page.value("document.documentElement.lang") == "en"
    assert page.each("h1, h2", "node.tagName") == ["H1", "H2", "H2", "H2", "H2"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 500 rows with 3,000 samples each."""
    return written_large(tmp_path_factory.mktemp("large"))


def test_a_page_of_500_rows_is_below_5_mb_and_says_what_it_left_out(
    browser: chromium.Page, large: Path
) -> None:
    assert 3e6 < (large / "report.html").stat().st_size < 5e6
    page = browser.open_afresh(large / "report.html")
    assert page.count("tr.row") == 500
    note = page.text("#samples-note")
    assert note.startswith("Of 500 rows not every sample is here")
    page.click("tr.row button")
    assert re.search(r"shown2,(39\d|400) of 3,000 samples", page.text(".detail"))
    page.click("thead th:nth-child(5) button")
    numbers = page.each("tr.row .median", "parseFloat(node.innerText)")
    assert numbers == sorted(numbers)
    assert page.complaints == []


@pytest.mark.skipif("BBX_PICTURE_OF" not in os.environ, reason="BBX_PICTURE_OF names no folder of a report")
def test_the_picture_for_the_readme_is_taken(browser: chromium.Page, tmp_path: Path) -> None:
    bbx.report([os.environ["BBX_PICTURE_OF"]], out=tmp_path)
    page = browser.open_afresh(tmp_path / "report.html")
    page.look(width=1200)
    [bottom] = page.each(".pair", "node.getBoundingClientRect().bottom")
    page.look(width=1200, height=round(bottom) + 24, scale=1.5)
    (DOCS / "report.png").write_bytes(page.picture())
    assert page.all_drawn("#latency canvas")
