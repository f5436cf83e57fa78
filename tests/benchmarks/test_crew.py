"""Exports side by side, and what is left of a benchmark that is stopped at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bbx.benchmarks.contention import usable_cpus
from bbx.benchmarks.crew import Crew, crew, imports_for
from bbx.errors import Cancelled
from bbx.process import run_task
from tests.benchmarks.test_compare import graph

BBX = Path(sys.executable).with_name("bbx")

_TASKS = """
import os, time

def facts(request):
    time.sleep(request.get("sleep", 0))
    return {"pid": os.getpid(), "parent": os.getppid(), "cpus": sorted(os.sched_getaffinity(0))}

def sleep(request):
    with open(request["started"], "w") as stream:
        stream.write(str(os.getpid()))
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crew_tasks.py").write_text(_TASKS)
    monkeypatch.chdir(tmp_path)


def _gone(pid: int, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in ("Z", "X"):
            return True
        time.sleep(0.02)
    return False


def _work(builders: Crew, count: int, **request: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def job() -> None:
        found.append(run_task("crew_tasks:facts", request))

    builders.work([job] * count)
    return found


def test_every_job_is_done_by_builders_on_cpus_of_their_own() -> None:
    with crew(2) as builders:
        found = _work(builders, 4, sleep=0.3)
        assert len({each["pid"] for each in found}) == 4
        by_server = {each["parent"]: tuple(each["cpus"]) for each in found}
        assert len(by_server) == min(2, len(usable_cpus()))
        cpus = [cpu for mine in by_server.values() for cpu in mine]
        assert sorted(cpus) == usable_cpus()
        assert {each["parent"] for each in _work(builders, 4, sleep=0.1)} == by_server.keys()
    assert all(_gone(server) for server in by_server)


def test_a_job_that_fails_fails_the_work() -> None:
    def broken() -> None:
        raise ValueError("a defect")

    with crew(2) as builders, pytest.raises(ValueError, match="a defect"):
        builders.work([broken])


def test_ctrl_c_ends_all_jobs_and_begins_no_further(tmp_path: Path) -> None:
    marks = [tmp_path / f"started{index}" for index in range(3)]
    jobs = [partial(run_task, "crew_tasks:sleep", {"started": str(mark)}) for mark in marks]

    def press_once_they_run(begun: list[Path]) -> None:
        while not all(mark.exists() and mark.read_text() for mark in begun):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    with crew(2) as builders:
        begun, others = marks[: builders.size], marks[builders.size :]
        threading.Thread(target=press_once_they_run, args=[begun]).start()
        with pytest.raises(Cancelled):
            builders.work(jobs)
    assert all(_gone(int(mark.read_text())) for mark in begun)
    assert not any(mark.exists() for mark in others)


def test_rows_on_onnx_runtime_are_forked_from_a_process_without_torch() -> None:
    ort = imports_for("bbx.benchmarks.row:row_task", {"runtime": "ort-cpu"})
    eager = imports_for("bbx.benchmarks.row:row_task", {"runtime": "eager"})
    code = f"import sys; [__import__(name) for name in {ort!r}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "torch" in eager


def test_killed_at_random_and_resumed_it_ends_with_the_same_rows(tmp_path: Path) -> None:
    """Batches of two graphs; SIGKILL at four moments of four runs, then one that may end."""
    nets = [str(graph(tmp_path / f"{name}.onnx", size=64)) for name in ("one", "two")]
    words = [BBX, "bench", *nets, "--runtime", "ort-cpu", "--batch", "1", "--batch", "2", "--threads", "1"]
    moments = random.Random(7)
    for _ in range(4):
        with subprocess.Popen([*words, "--resume", "-q"], stdout=subprocess.DEVNULL) as run:
            time.sleep(moments.uniform(0.3, 3.0))
            run.kill()
    done = subprocess.run([*words, "--resume", "--json", "-q"], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["complete"]
    assert [row["key"] for row in report["results"]] == [
        f"{net}/ort-cpu/fp32/b{batch}/single/t1" for net in nets for batch in (1, 2)
    ]
    assert all((tmp_path / "artifacts" / row["samples"]).is_file() for row in report["results"])
