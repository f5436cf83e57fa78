"""`bbx bench`, killed at random moments and resumed, against a run that nobody disturbed.

    python -m tests.performance.kills --kills 10

Each time the whole process group gets SIGKILL at a seeded random moment; then `--resume` goes on until the
next.
After the last run the folder must hold what an undisturbed run leaves: the same rows, each with its trace, no
temporary file, and no process may be left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bbx.benchmarks.journal import Journal, read_samples

BBX = Path(sys.executable).with_name("bbx")
ROWS = (
    *("resnet18", "mobilenet_v3_small", "--image-size", "64", "--weights", "random"),
    *("--runtime", "eager", "--runtime", "torchscript", "--runtime", "ort-cpu", "--batch", "1,2"),
)
LONGEST_S = 600


def start(out: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """A benchmark that goes on where the last one was killed, in a process group of its own."""
    return subprocess.Popen(
        [BBX, "bench", *words, "--resume", "-o", out, "-q"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def descendants(pid: int) -> set[int]:
    """All processes that a process started, and those that they started."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
        return children.union(*map(descendants, children))
    return set()


def still_there(pids: set[int], within_s: float = 10.0) -> set[int]:
    """Those of the processes that do not end in that time; a zombie has ended."""
    deadline = time.monotonic() + within_s
    while (alive := {pid for pid in pids if _runs(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def killed_after(out: Path, words: Sequence[str], seconds: float) -> bool:
    """Run for so long and kill; whether it was still running by then. No process of it may be left."""
    with start(out, words) as run:
        try:
            run.wait(seconds)
        except subprocess.TimeoutExpired:
            family = descendants(run.pid)
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            left = still_there(family)
            if left:
                raise RuntimeError(f"processes {sorted(left)} outlived the benchmark") from None
            return True
    return False


def finish(out: Path, words: Sequence[str]) -> None:
    """Run to the end."""
    with start(out, words) as run:
        if run.wait(LONGEST_S):
            raise RuntimeError(f"the benchmark ended with code {run.returncode}")


def faults(out: Path, wanted: set[str]) -> list[str]:
    """What is wrong with a finished folder, in words.

    Args:
        wanted: keys of the rows that must be there.
    """
    found = [f"left over: {path.relative_to(out)}" for path in out.rglob(".*")]
    lines = (out / "rows.jsonl").read_text().splitlines()
    found += [
        f"rows.jsonl, line {number}: half a row" for number, line in enumerate(lines) if not _whole(line)
    ]
    rows = Journal(out, resume=True).read()
    if set(rows) != wanted:
        found.append(f"rows: {sorted(set(rows) ^ wanted)} are not in both runs")
    for key, row in rows.items():
        if not row["latency_ns"]:
            found.append(f"{key} has no measurement: {row['reasons']}")
        elif read_samples(out / row["samples"])[0].size != row["runs"]:
            found.append(f"{key}: its trace is not that of the row")
    report = {row["key"] for row in json.loads((out / "report.json").read_text())["results"]}
    if report != wanted:
        found.append(f"report.json: {sorted(report ^ wanted)} are not in both runs")
    return found


def _whole(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def disturbed(out: Path, words: Sequence[str], moments: Sequence[float]) -> int:
    """Kill at these moments, each counted from the start of a run, and finish; how many kills hit."""
    hits = sum(killed_after(out, words, seconds) for seconds in moments)
    finish(out, words)
    return hits


def main() -> int:
    """Print what was found; the exit code is that of a failed check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--within", type=float, default=12.0, help="latest moment, in seconds of a run")
    given = parser.parse_args()
    draw = random.Random(given.seed)
    moments = [draw.uniform(0.3, given.within) for _ in range(given.kills)]
    with tempfile.TemporaryDirectory() as folder:
        calm, wild = Path(folder, "calm"), Path(folder, "wild")
        begun = time.monotonic()
        finish(calm, ROWS)
        calm_s = time.monotonic() - begun
        wanted = {row["key"] for row in json.loads((calm / "report.json").read_text())["results"]}
        hits = disturbed(wild, ROWS, moments)
        found = faults(calm, wanted) + faults(wild, wanted)
    print(f"{len(wanted)} rows; undisturbed {calm_s:.0f} s; {hits} of {len(moments)} kills hit")
    print("\n".join(found) or "the same rows, whole, and nothing left over")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
