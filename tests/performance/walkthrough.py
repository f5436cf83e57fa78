"""The walk-through of docs/walkthrough.md: from a folder of pictures to one table for every runner.

    python -m tests.performance.walkthrough [--folder DIR] [--out FILE]

Writes pictures of two textures, runs the commands of the page one after another, each as its own process, and
keeps what they answered. The pictures are crops of scikit-image's `grass` and `gravel`: those to learn from
are of the upper halves, those to judge by of the lower ones.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage import data

from bbx.benchmarks.environment import describe

SIDE = 96
COUNTS = {"train": 60, "test": 30}
"""Pictures of each texture."""

PAGE = Path(__file__).parents[2] / "docs" / "walkthrough.md"


def main() -> None:
    """Run the page's commands and write what came of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=PAGE.parent / "results" / "walkthrough.json")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = asked.folder or Path(name)
        write_pictures(folder / "textures")
        steps = [ran(line, folder) for line in commands(PAGE.read_text())]
    document = {"environment": describe(), "pictures": COUNTS, "steps": steps}
    asked.out.write_text(json.dumps(document, indent=2) + "\n")


def commands(page: str) -> list[str]:
    """The command lines in the page's blocks, in their order."""
    blocks = [part.partition("```")[0] for part in page.split("```sh\n")[1:]]
    return [line for block in blocks for line in block.splitlines() if line.startswith("bbx ")]


def write_pictures(folder: Path) -> None:
    """Class folders below `train` and `test`."""
    generator = np.random.default_rng(0)
    for name in ("grass", "gravel"):
        whole = getattr(data, name)()
        middle = whole.shape[0] // 2
        for part, half in (("train", whole[:middle]), ("test", whole[middle:])):
            place = folder / part / name
            place.mkdir(parents=True, exist_ok=True)
            for number in range(COUNTS[part]):
                top, left = (int(generator.integers(length - SIDE + 1)) for length in half.shape)
                Image.fromarray(half[top : top + SIDE, left : left + SIDE]).save(place / f"{number:03d}.png")


def ran(line: str, folder: Path) -> dict[str, Any]:
    """One command, with its document and the time it took.

    Raises:
        SystemExit: it failed.
    """
    words = shlex.split(line)
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "bbx", *words[1:], "--json"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    print(f"{seconds:7.1f} s  {line}", flush=True)
    if done.returncode:
        raise SystemExit(f"{line} ended with {done.returncode}:\n{done.stderr}")
    return {"command": line, "seconds": round(seconds, 1), "answer": kept(words[1], json.loads(done.stdout))}


def kept(verb: str, answer: dict[str, Any]) -> dict[str, Any]:
    """What of a document the page shows."""
    fields = {
        "train": ("best", "seconds"),
        "quantize": ("accuracy",),
        "eval": ("data", "metric", "results"),
        "predict": ("images",),
    }.get(verb, ("sha256",))
    return {name: answer[name] for name in fields}


if __name__ == "__main__":
    main()
