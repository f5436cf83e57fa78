"""TensorRT while it works: its log kept instead of printed, its progress passed on, its build stopped."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from types import FrameType, ModuleType
from typing import Any

from bbx.errors import Cancelled
from bbx.process import progress

_LEAST_STEP = 0.01
"""Smallest advance of a build that is worth an event."""


@functools.cache
def build_log(trt: ModuleType) -> Any:
    """The process's logger: an `ILogger` with `lines`, the last warnings and errors, oldest first.

    TensorRT keeps the first logger it is given for as long as the process lives, so there is one.
    """

    class BuildLog(trt.ILogger):  # type: ignore[misc, name-defined]  # its base is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: deque[str] = deque(maxlen=50)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.lines.append(message)

    return BuildLog()


def quiet_polygraphy(trt: ModuleType) -> Any:
    """Have Polygraphy use the process's logger and print nothing itself; returns the logger, emptied."""
    from polygraphy.backend.trt import util
    from polygraphy.logger import G_LOGGER

    log = build_log(trt)
    log.lines.clear()
    util.TRT_LOGGER = log
    G_LOGGER.module_severity = G_LOGGER.CRITICAL + 1
    return log


def refused_node(lines: Iterable[str]) -> tuple[str, str, str] | None:
    """Name, operator and complaint of the first node that, by its log, the parser refused; None if none."""
    text = "\n".join(lines)
    node = re.search(r"While parsing node number \d+ \[(?P<operator>\S+) -> \"(?P<output>.*?)\"", text)
    if node is None:
        return None
    after = text[node.end() :]
    name = re.search(r"Node name: (?P<name>.*)", after)
    complaint = re.search(r"ERROR: (?P<why>.*)", after, re.DOTALL)
    why = complaint["why"].partition("ModelImporter.cpp")[0] if complaint else "no reason given"
    return name["name"] if name else node["output"], node["operator"], " ".join(why.split())


class Stop:
    """Whether the user has asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def check(self) -> None:
        """Raise `Cancelled` if the user has asked to stop."""
        if self.asked:
            raise Cancelled("The engine build was cancelled.")


@contextlib.contextmanager
def interruptible() -> Iterator[Stop]:
    """Turn SIGINT into a question that native code can ask; outside the main thread nothing changes."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(_signal: int, _frame: FrameType | None) -> None:
        stop.asked = True

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def progress_monitor(trt: ModuleType, stop: Stop) -> Any:
    """An `IProgressMonitor` that reports the build as a fraction and ends it when `stop` is asked for."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]  # its base is known at run time only
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, _Phase] = {}
            self._reported = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._phases[name] = _Phase(parent, max(steps, 1))

        def phase_finish(self, name: str) -> None:
            self._phases.pop(name, None)

        def step_complete(self, name: str, step: int) -> bool:
            if name in self._phases:
                self._phases[name].done = step + 1
            fraction = _fraction(self._phases, None)
            if fraction >= self._reported + _LEAST_STEP:
                self._reported = fraction
                progress("build engine", fraction, name)
            return not stop.asked

    return Monitor()


class _Phase:
    def __init__(self, parent: str | None, steps: int) -> None:
        self.parent, self.steps, self.done = parent, steps, 0


def _fraction(phases: dict[str, _Phase], parent: str | None) -> float:
    """How far the running child of `parent` is, the phases below it included."""
    for name, phase in phases.items():
        if phase.parent == parent:
            inner = _fraction(phases, name) if phase.done < phase.steps else 0.0
            return min(1.0, (phase.done + inner) / phase.steps)
    return 0.0
