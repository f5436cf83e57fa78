"""From rows to reports: JSON for tools, Markdown and HTML for people, JUnit and a history file for CI.

`write` makes all of them from one document; `report` merges the folders of several runs into one.
"""

from __future__ import annotations

from bbx.benchmarks.reports.document import document
from bbx.benchmarks.reports.files import FILES, write
from bbx.benchmarks.reports.load import read_report
from bbx.benchmarks.reports.merge import report

__all__ = ["FILES", "document", "read_report", "report", "write"]
