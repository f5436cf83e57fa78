"""Tasks that are forked: what `bbx.process` promises of a fresh interpreter holds for them too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bbx import process
from bbx.errors import BbxError, Cancelled, ExhaustedError, ModelError
from bbx.process import Event, Notice, interrupt_tasks, run_task
from bbx.warm import warm_children

_TASKS = """
import json, os, signal, subprocess, sys, time
import numpy as np
from bbx import process
from bbx.errors import ModelError

state = []

def facts(request):
    print("noise on stdout")
    process.progress("count", 0.5, "half")
    process.warn("Mind the gap.")
    state.append(1)
    square = np.ones((400, 400)) @ np.ones((400, 400))
    return {
        "pid": os.getpid(), "parent": os.getppid(), "calls": len(state), "sum": float(square[0, 0]),
        "cpus": sorted(os.sched_getaffinity(0)), "json": "json" in sys.modules,
        "colorsys": "colorsys" in sys.modules, "number": request.get("number"),
    }

def wrong_model(request):
    raise ModelError("There is no model 'x'.", hint="Nearest: y.")

def killed(request):
    os.kill(os.getpid(), signal.SIGKILL)

def defect(request):
    raise KeyError("a defect")

def sleep(request):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    process.progress("sleep", None, f"{os.getpid()} {child.pid}")
    try:
        time.sleep(600)
    finally:
        open(request["cleaned"], "w").close()

def deaf(request):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process.progress("sleep", None, str(os.getpid()))
    time.sleep(600)
"""


def _imports(task: str, request: dict[str, Any]) -> list[str]:
    return ["tasks", *request.get("imports", [])]


@pytest.fixture(autouse=True)
def warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "tasks.py").write_text(_TASKS)
    monkeypatch.chdir(tmp_path)
    with warm_children(_imports):
        yield


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def _gone(pid: int, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not _is_alive(pid)


def test_each_task_has_a_process_of_its_own_with_nothing_left_by_the_last(
    capfd: pytest.CaptureFixture[str],
) -> None:
    heard: list[Event | Notice] = []
    first = run_task("tasks:facts", {"number": 1}, listener=heard.append)
    second = run_task("tasks:facts", {"number": 2})
    assert first["pid"] != second["pid"]
    assert first["parent"] == second["parent"] != os.getpid()
    assert (first["calls"], second["calls"]) == (1, 1)
    assert (first["number"], second["number"], second["sum"]) == (1, 2, 400.0)
    assert heard == [Event("count", 0.5, "half"), Notice("Mind the gap.")]
    assert capfd.readouterr() == ("", "")


def test_a_module_that_breaks_while_it_is_imported_is_left_to_the_task(tmp_path: Path) -> None:
    (tmp_path / "mismatched.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    assert run_task("tasks:facts", {"imports": ["mismatched"]})["calls"] == 1


def test_tasks_with_other_imports_have_another_server() -> None:
    plain = run_task("tasks:facts", {})
    other = run_task("tasks:facts", {"imports": ["colorsys"]})
    assert (plain["colorsys"], other["colorsys"]) == (False, True)
    assert plain["parent"] != other["parent"]


def test_what_cannot_be_imported_is_for_the_task_to_say() -> None:
    assert run_task("tasks:facts", {"imports": ["no_such_module"]})["calls"] == 1


def test_errors_crashes_and_defects_arrive_and_the_next_task_runs() -> None:
    with pytest.raises(ModelError) as caught:
        run_task("tasks:wrong_model", {})
    assert (caught.value.message, caught.value.hint) == ("There is no model 'x'.", "Nearest: y.")
    with pytest.raises(ExhaustedError, match="memory"):
        run_task("tasks:killed", {})
    with pytest.raises(BbxError, match="without an answer") as defect:
        run_task("tasks:defect", {})
    assert "KeyError: 'a defect'" in str(defect.value)
    assert run_task("tasks:facts", {})["calls"] == 1


def _interrupt_when_heard(heard: list[list[int]], press: Any) -> Any:
    def hear(event: Event | Notice) -> None:
        if isinstance(event, Event):
            heard.append([int(part) for part in event.detail.split()])
            threading.Timer(0.1, press).start()

    return hear


def test_ctrl_c_lets_the_task_clean_up_and_the_server_goes_on(tmp_path: Path) -> None:
    heard: list[list[int]] = []
    cleaned = tmp_path / "cleaned"
    press = _interrupt_when_heard(heard, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Cancelled):
        run_task("tasks:sleep", {"cleaned": str(cleaned)}, listener=press)
    [[worker, grandchild]] = heard
    assert cleaned.exists()
    assert not _is_alive(worker)
    assert _gone(grandchild)
    assert run_task("tasks:facts", {})["calls"] == 1


def test_a_task_that_does_not_listen_is_killed_and_the_server_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "_GRACE_S", 0.3)
    heard: list[list[int]] = []
    press = _interrupt_when_heard(heard, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Cancelled):
        run_task("tasks:deaf", {}, listener=press)
    assert not _is_alive(heard[0][0])
    assert run_task("tasks:facts", {})["calls"] == 1


def test_the_tasks_of_all_threads_can_be_interrupted(tmp_path: Path) -> None:
    heard: list[list[int]] = []
    with pytest.raises(Cancelled):
        run_task(
            "tasks:sleep",
            {"cleaned": str(tmp_path / "cleaned")},
            listener=_interrupt_when_heard(heard, interrupt_tasks),
        )
    assert (tmp_path / "cleaned").exists()


def test_a_server_that_was_killed_is_replaced() -> None:
    first = run_task("tasks:facts", {})
    os.kill(first["parent"], signal.SIGKILL)
    assert _gone(first["parent"])
    second = run_task("tasks:facts", {})
    assert second["parent"] != first["parent"]


def test_at_the_end_no_server_is_left() -> None:
    with warm_children(_imports):
        server = run_task("tasks:facts", {})["parent"]
        assert _is_alive(server)
    assert _gone(server)


def test_a_killed_caller_takes_server_and_task_with_it() -> None:
    code = (
        "from bbx.process import run_task; from bbx.warm import warm_children\n"
        "with warm_children(lambda task, request: ['tasks']):\n"
        "    run_task('tasks:deaf', {}, listener=lambda event: print(event.detail, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        worker = int(caller.stdout.readline())
        assert _is_alive(worker)
        caller.kill()
    assert _gone(worker)
