"""How good the networks of a report are, as columns of its tables."""

from __future__ import annotations

from collections.abc import Sequence

from bbx.benchmarks.journal import Document
from bbx.evaluation.metrics import PRIMARY


def accuracy_columns(rows: Sequence[Document]) -> list[str]:
    """The metrics that stand for the tasks of these rows; none where nothing was judged."""
    named = {name for row in rows for name in row.get("accuracy") or {}}
    return [name for name in PRIMARY.values() if name in named]


def accuracy_cells(row: Document, columns: Sequence[str]) -> list[str]:
    """These metrics of one row."""
    found = row.get("accuracy") or {}
    return [f"{found[name]:.2%}" if name in found else "–" for name in columns]
