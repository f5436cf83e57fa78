"""The README's picture: the table of a report, as the terminal shows it. Run by `make picture`.

python docs/picture.py docs/results/demo/report.json docs/table.svg
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bbx.cli.live_table import COLUMNS, cells

_WIDTH = 112
_LEFT = 3


def picture(report: Path, out: Path) -> None:
    """Draw the rows of `report` (a `report.json`) into the SVG file `out`."""
    document = json.loads(report.read_text())
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if index >= _LEFT else "left", no_wrap=True)
    for row in document["results"]:
        table.add_row(*cells(row), style=None if row["verdict"] == "valid" else "dim")
    subjects = " ".join(dict.fromkeys(row["subject"] for row in document["results"]))
    console.print(f"$ bbx bench {subjects}", highlight=False)
    console.print(table)
    drawn = console.export_svg(title="bbx bench", unique_id="bbx")
    # The fonts would be fetched from the network; any monospaced font serves.
    out.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL))


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
