"""The report as JUnit XML, which every CI shows: one case a row."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from bbx.benchmarks.journal import Document
from bbx.benchmarks.reports.document import (
    failed_check,
    fingerprint_in,
    is_valid,
    machines,
    what_to_do,
    why,
)

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML 1.0 document may hold, not even escaped (W3C, XML 1.0, section 2.2)."""


def junit(report: Document) -> str:
    """One suite a machine, one case a row.

    A row whose parity or precision check failed, or that became slower, is a failure; one whose number may
    not be believed is an error; one that was left out or not reached is skipped. `time` is the time spent
    measuring, in seconds, where it is known.
    """
    suites = Element("testsuites", name="bbx bench")
    slower = {pair["key"]: pair for pair in report.get("comparison", []) if pair["verdict"] == "slower"}
    for mark, name in machines(report).items():
        rows = [row for row in report["results"] if fingerprint_in(report, row) == mark]
        cases = [_case(row, slower.get(row["key"])) for row in rows]
        _suite(suites, name, cases, report["created"])
    skipped = [_skipped("left out", each["what"], each["reason"]) for each in report["left_out"]]
    skipped += [_skipped("not measured", key, "The run was stopped.") for key in report.get("missing", [])]
    if skipped:
        _suite(suites, "left out", skipped, report["created"])
    for name in ("tests", "failures", "errors", "skipped"):
        suites.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    indent(suites)
    return tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _suite(suites: Element, name: str, cases: Iterable[Element], created: str) -> None:
    suite = SubElement(suites, "testsuite", name=_text(name), timestamp=created.rstrip("Z"))
    suite.extend(cases)
    suite.set("tests", str(len(suite)))
    for total, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(total, str(len(suite.findall(f"testcase/{tag}"))))


def _case(row: Document, slower: Document | None) -> Element:
    case = Element(
        "testcase",
        classname=_text(row["subject"]),
        name=_text(row["key"].removeprefix(row["subject"]).lstrip("/") or row["key"]),
        time=f"{row.get('load', {}).get('seconds', 0.0):.3f}",
    )
    if failed_check(row):
        _outcome(case, "failure", row["verdict"], why(row), row)
    elif slower is not None:
        low, high = slower["ci95"]
        text = f"{slower['ratio']:.3f} times the baseline's time (95 % interval {low:.3f} to {high:.3f})."
        _outcome(case, "failure", "slower", text, row)
    elif not is_valid(row):
        _outcome(case, "error", row["verdict"], why(row), row)
    return case


def _outcome(case: Element, tag: str, kind: str, text: str, row: Document) -> None:
    found = SubElement(case, tag, type=_text(kind), message=_text(text))
    found.text = _text("\n".join(filter(None, [text, what_to_do(row), row["command"]])))


def _skipped(kind: str, name: str, reason: str) -> Element:
    case = Element("testcase", classname=kind, name=_text(name), time="0")
    SubElement(case, "skipped", message=_text(reason))
    return case


def _text(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
