"""Work in a child process: progress, cancellation and crashes that do not take the caller down.

Exporters and engine builders are native code that may run for minutes, write to stdout, run out of
memory or die. So every build and every measured row is a *task*: a function `task(request) -> document`,
both plain JSON, which `run_task` has `bbx.worker` run in a fresh interpreter. The caller never imports
torch, which is also why a second, identical export answers in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO, Any, Protocol

from bbx.errors import BbxError, Cancelled, CheckFailed, ExhaustedError, error_named

Task = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a task's progress.

    Attributes:
        stage: what is being done, in the words of the user interface.
        fraction: how much of the stage is done (0..1), or None where that cannot be known.
        detail: what it is being done to; may be empty.
    """

    stage: str
    fraction: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user must not miss, which does not stop the task."""

    text: str


Listener = Callable[[Event | Notice], None]


def silent(event: Event | Notice) -> None:
    """A listener that hears nothing."""


_listener: ContextVar[Listener] = ContextVar("bbx_listener", default=silent)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send what `progress` and `warn` say meanwhile to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def progress(stage: str, fraction: float | None = None, detail: str = "") -> None:
    """Report a step of the running task to whoever started it."""
    _listener.get()(Event(stage, fraction, detail))


def warn(text: str) -> None:
    """Tell the user something that must not be missed."""
    _listener.get()(Notice(text))


@contextlib.contextmanager
def collecting_warnings() -> Iterator[list[str]]:
    """Keep the text of every `warn` meanwhile, and pass it on."""
    outer = _listener.get()
    texts: list[str] = []

    def keep(event: Event | Notice) -> None:
        if isinstance(event, Notice):
            texts.append(event.text)
        outer(event)

    with listening(keep):
        yield texts


# --- the caller's side ------------------------------------------------------------------------------

_GRACE_S = 5.0
"""How long a cancelled task may take to clean up before it is killed."""


class Child(Protocol):
    """A process that carries out a task; the leader of a session of its own."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal; raises `subprocess.TimeoutExpired`."""


Launch = Callable[[str, dict[str, Any], IO[str], int, IO[str]], Child]
"""Starts the worker of a task: its name, its request, a file that holds the request and becomes stdin, the
descriptor that events are written to, and the file that becomes stdout and stderr."""


def in_fresh_interpreter(
    name: str, _values: dict[str, Any], request: IO[str], event_fd: int, log: IO[str]
) -> Child:
    """Start a task in a new interpreter."""
    return subprocess.Popen(
        [sys.executable, "-m", "bbx.worker", name, str(event_fd)],
        stdin=request,
        stdout=log,
        stderr=log,
        pass_fds=(event_fd,),
        start_new_session=True,
    )


_launch: ContextVar[Launch] = ContextVar("bbx_launch", default=in_fresh_interpreter)


@contextlib.contextmanager
def launching(launch: Launch) -> Iterator[None]:
    """Have `run_task` start its children with `launch` meanwhile."""
    token = _launch.set(launch)
    try:
        yield
    finally:
        _launch.reset(token)


def run_task(name: str, request: dict[str, Any], *, listener: Listener = silent) -> dict[str, Any]:
    """Run a task in a child process and return its document.

    Args:
        name: `package.module:function` inside bbx.
        request: plain JSON; the function's only argument.
        listener: hears progress and warnings, on this thread.

    Raises:
        BbxError: what the task raised, of the same class and text.
        Cancelled: this process was interrupted; the child is gone when this is raised.
        ExhaustedError: the child was killed, as the kernel does when memory runs out.
    """
    read_end, write_end = os.pipe()
    with (
        tempfile.TemporaryFile("w+") as log,
        tempfile.TemporaryFile("w+") as stdin,
        os.fdopen(read_end) as events,
    ):
        json.dump(request, stdin)
        stdin.flush()
        stdin.seek(0)
        try:
            child = _launch.get()(name, request, stdin, write_end, log)
        finally:
            os.close(write_end)
        outcome, code = _outcome(child, events, listener)
        if outcome is None:
            raise _crash(name, code, _tail(log))
    if "error" in outcome:
        raise _raised(outcome)
    document: dict[str, Any] = outcome["document"]
    return document


def _outcome(child: Child, events: IO[str], listener: Listener) -> tuple[dict[str, Any] | None, int]:
    """What a child answered, if it did, and its exit code; whatever happens here, it is gone afterwards."""
    try:
        with _stopped_on_request(child):
            return _converse(events, listener), child.wait()
    except KeyboardInterrupt:
        _stop(child)
        raise Cancelled("Cancelled.") from None
    except BaseException:
        _stop(child)
        raise


def _raised(outcome: dict[str, Any]) -> BbxError:
    """What the task raised, made again on this side."""
    kind = error_named(outcome["error"])
    if issubclass(kind, CheckFailed):
        return kind(outcome["message"], hint=outcome["hint"], document=outcome["document"])
    return kind(outcome["message"], hint=outcome["hint"])


def _converse(events: IO[str], listener: Listener) -> dict[str, Any] | None:
    """Pass events on, and return the outcome; None when there was none."""
    for line in events:
        message: dict[str, Any] = json.loads(line)
        match message.pop("kind"):
            case "progress":
                listener(Event(**message))
            case "warning":
                listener(Notice(**message))
            case _:
                return message
    return None


_running: set[Child] = set()


@contextlib.contextmanager
def _stopped_on_request(child: Child) -> Iterator[None]:
    """Let `interrupt_tasks` find the child meanwhile."""
    _running.add(child)
    try:
        yield
    finally:
        _running.discard(child)


def interrupt_tasks() -> None:
    """Press Ctrl-C in every task that runs, on whatever thread it was started; those threads see the rest."""
    for child in tuple(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGINT)


def _stop(child: Child) -> None:
    """End the child and whatever it started: politely, then not."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        child.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _tail(log: IO[str], lines: int = 12) -> str:
    log.seek(0)
    return "\n".join(log.read()[-20_000:].splitlines()[-lines:])


def _crash(name: str, code: int, tail: str) -> BbxError:
    what = name.partition(":")[2].replace("_task", "").replace("_", " ")
    if code == -signal.SIGKILL:
        return ExhaustedError(
            f"The {what} process was killed, most likely because memory ran out.",
            hint="Use a smaller model, batch or profile, or a machine with more memory.",
        )
    how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return BbxError(f"The {what} process {how} without an answer. Its last words:\n{tail}")
