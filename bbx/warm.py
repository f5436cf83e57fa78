"""Children that are forked from a process that has imported what they need.

A fresh interpreter spends seconds on importing torch before it does any work, and `bbx bench --all` starts
hundreds of them. So a *server* imports a task's modules once, does nothing else, and forks a child for each
task: one fresh process a task, as `bbx.process` promises, without the wait.

What makes that safe: the server runs no inference and opens no device, so no thread pool of torch, OpenMP or
ONNX Runtime and no CUDA context exists when it forks (OpenBLAS, which NumPy brings, ends its threads before a
fork and starts them again after it). Servers that import different modules are different processes, so that
the peak memory of a row on ONNX Runtime does not contain torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from bbx.errors import BbxError
from bbx.process import Child, launching

Imports = Callable[[str, dict[str, Any]], Sequence[str]]
"""The modules that a task's server imports, by the task's name and its request."""


class _Line:
    """A connection that is read line by line; one that was not there in time can still be waited for."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._read = b""

    def next(self, timeout: float | None = None) -> dict[str, int] | None:
        """The next line's JSON; None where the other side is gone.

        Raises:
            TimeoutError: there was none in time.
        """
        self.connection.settimeout(timeout)
        while b"\n" not in self._read:
            more = self.connection.recv(4096)
            if not more:
                return None
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        answer: dict[str, int] = json.loads(line)
        return answer


class ForkedChild:
    """A task in a process that a server forked; see `bbx.process.Child`."""

    def __init__(self, pid: int, line: _Line) -> None:
        self.pid = pid
        self._line = line
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not, in time.
        """
        if self._code is None:
            try:
                answer = self._line.next(timeout)
            except TimeoutError:
                raise subprocess.TimeoutExpired("bbx.worker", timeout or 0.0) from None
            # A server that is gone took its child with it.
            self._code = answer["code"] if answer else -signal.SIGKILL
        return self._code


class _Server:
    """A process that has imported `imports` and forks one child at a time."""

    def __init__(self, imports: Sequence[str], cpus: frozenset[int] | None) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bbx.worker", "--serve", str(theirs.fileno()), *imports],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        if cpus is not None:
            # Before it has imported anything, and so before any library counts its CPUs.
            os.sched_setaffinity(self._process.pid, cpus)
        self._line = _Line(ours)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def launch(self, name: str, request: IO[str], event_fd: int, log: IO[str]) -> ForkedChild:
        handles = [request.fileno(), event_fd, log.fileno()]
        self._line.connection.settimeout(None)
        socket.send_fds(self._line.connection, [f"{name}\n".encode()], handles)
        answer = self._line.next()
        if answer is None:
            raise BbxError(f"The process that starts {name} is gone.", hint="Run the command again.")
        return ForkedChild(answer["pid"], self._line)

    def close(self) -> None:
        self._line.connection.close()
        self._process.kill()
        self._process.wait()


class WarmServers:
    """Servers by what they have imported, each started when it is first needed.

    Args:
        imports: which server a task belongs to: tasks with the same modules share one.
        cpus: the CPUs that servers and tasks may use; None for those of this process. Libraries start as many
            threads as there are of them.
    """

    def __init__(self, imports: Imports, *, cpus: frozenset[int] | None = None) -> None:
        self._imports = imports
        self._cpus = cpus
        self._servers: dict[tuple[str, ...], _Server] = {}

    def launch(
        self, name: str, values: dict[str, Any], request: IO[str], event_fd: int, log: IO[str]
    ) -> Child:
        """See `bbx.process.Launch`; one task at a time."""
        key = tuple(self._imports(name, values))
        if key in self._servers and not self._servers[key].alive:
            self._servers.pop(key).close()
        if key not in self._servers:
            self._servers[key] = _Server(key, self._cpus)
        return self._servers[key].launch(name, request, event_fd, log)

    def close(self) -> None:
        """End the servers, and with each the task that it may have."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()


@contextlib.contextmanager
def warm_children(imports: Imports) -> Iterator[None]:
    """Fork the tasks of this thread from servers, which live as long as the context."""
    servers = WarmServers(imports)
    try:
        with launching(servers.launch):
            yield
    finally:
        servers.close()
