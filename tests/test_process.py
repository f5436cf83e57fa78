"""Tasks in child processes: answers, errors, crashes, cancellation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bbx import process
from bbx.errors import BbxError, Cancelled, CheckFailed, ExhaustedError, ModelError
from bbx.process import Event, Notice, run_task

_TASKS = """
import ctypes, os, signal, subprocess, sys, time
from bbx import process
from bbx.errors import CheckFailed, ModelError

def answer(request):
    print("noise on stdout")
    os.system("echo noise of a child")
    process.progress("count", 0.5, "half")
    process.warn("Mind the gap.")
    return {"double": 2 * request["number"], "pid": os.getpid()}

def wrong_model(request):
    raise ModelError("There is no model 'x'.", hint="Nearest: y.")

def check(request):
    raise CheckFailed("Too far.", document={"parity": {"verdict": "fail"}})

def memory(request):
    raise MemoryError

def cuda_memory(request):
    raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

def killed(request):
    os.kill(os.getpid(), signal.SIGKILL)

def segfault(request):
    print("about to crash", file=sys.stderr, flush=True)
    ctypes.string_at(0)

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


@pytest.fixture(autouse=True)
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks.py").write_text(_TASKS)
    monkeypatch.chdir(tmp_path)


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


def test_a_task_answers_from_a_process_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[Event | Notice] = []
    document = run_task("tasks:answer", {"number": 21}, listener=heard.append)
    assert document["double"] == 42
    assert document["pid"] != os.getpid()
    assert heard == [Event("count", 0.5, "half"), Notice("Mind the gap.")]
    assert capfd.readouterr() == ("", "")


def test_an_error_arrives_as_it_was_raised() -> None:
    with pytest.raises(ModelError) as caught:
        run_task("tasks:wrong_model", {})
    assert (caught.value.message, caught.value.hint) == ("There is no model 'x'.", "Nearest: y.")
    with pytest.raises(CheckFailed) as failed:
        run_task("tasks:check", {})
    assert failed.value.document == {"parity": {"verdict": "fail"}}


@pytest.mark.parametrize("task", ["memory", "cuda_memory", "killed"])
def test_no_memory_left_is_said_in_one_line(task: str) -> None:
    with pytest.raises(ExhaustedError) as caught:
        run_task(f"tasks:{task}", {})
    assert caught.value.exit_code == 6
    assert "memory" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_crash_of_native_code_does_not_take_the_caller_down() -> None:
    with pytest.raises(BbxError, match="segfault process died of SIGSEGV") as caught:
        run_task("tasks:segfault", {})
    assert "about to crash" in str(caught.value)


def test_a_defect_is_not_passed_off_as_an_error_of_the_user() -> None:
    with pytest.raises(BbxError, match="without an answer") as caught:
        run_task("tasks:defect", {})
    assert type(caught.value) is BbxError
    assert "KeyError: 'a defect'" in str(caught.value)


def _interrupt_when_heard(heard: list[list[int]]) -> Any:
    """A listener that keeps the process ids it is told and presses Ctrl-C once."""

    def hear(event: Event | Notice) -> None:
        if isinstance(event, Event):
            heard.append([int(part) for part in event.detail.split()])
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    return hear


def test_ctrl_c_lets_the_task_clean_up_and_leaves_no_process(tmp_path: Path) -> None:
    heard: list[list[int]] = []
    cleaned = tmp_path / "cleaned"
    with pytest.raises(Cancelled):
        run_task("tasks:sleep", {"cleaned": str(cleaned)}, listener=_interrupt_when_heard(heard))
    [[worker, grandchild]] = heard
    assert cleaned.exists()
    assert not _is_alive(worker)
    assert _gone(grandchild)


def test_a_task_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_GRACE_S", 0.3)
    heard: list[list[int]] = []
    with pytest.raises(Cancelled):
        run_task("tasks:deaf", {}, listener=_interrupt_when_heard(heard))
    assert not _is_alive(heard[0][0])


def test_a_listener_that_raises_ends_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_GRACE_S", 0.3)
    pids: list[int] = []

    def hear(event: Event | Notice) -> None:
        assert isinstance(event, Event)
        pids.append(int(event.detail))
        raise ValueError("the listener's own")

    with pytest.raises(ValueError, match="the listener's own"):
        run_task("tasks:deaf", {}, listener=hear)
    assert not _is_alive(pids[0])


def test_a_killed_caller_takes_its_task_with_it() -> None:
    code = (
        "from bbx.process import run_task;"
        "run_task('tasks:deaf', {}, listener=lambda event: print(event.detail, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        worker = int(caller.stdout.readline())
        assert _is_alive(worker)
        caller.kill()
    assert _gone(worker)


def test_warnings_are_collected_and_passed_on() -> None:
    heard: list[Event | Notice] = []
    with process.listening(heard.append), process.collecting_warnings() as texts:
        process.warn("one")
        process.progress("stage")
    assert texts == ["one"]
    assert heard == [Notice("one"), Event("stage")]
