"""The child's side of `bbx.process.run_task`: `python -m bbx.worker package.module:function EVENT_FD`.

And of `bbx.warm`: `python -m bbx.worker --serve SOCKET_FD MODULE…` imports the modules and forks a child for
each task that it is sent.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

from bbx.errors import BbxError, Cancelled, CheckFailed, ExhaustedError
from bbx.process import Event, Notice, Task, listening

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it is gone (Linux only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _is_out_of_memory(failure: MemoryError | RuntimeError) -> bool:
    """torch and CUDA report it as a RuntimeError, in these words."""
    text = str(failure).lower()
    return isinstance(failure, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _outcome_of(name: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        module, _, function = name.partition(":")
        task: Task = getattr(importlib.import_module(module), function)
        return {"document": task(request)}
    except KeyboardInterrupt:
        error: BbxError = Cancelled("Cancelled.")
    except BbxError as named:
        error = named
    except (MemoryError, RuntimeError) as failure:
        if not _is_out_of_memory(failure):
            raise
        error = ExhaustedError("Out of memory.", hint="Use a smaller model or batch.")
    return {"error": type(error).__name__, "message": error.message, "hint": error.hint} | (
        {"document": error.document} if isinstance(error, CheckFailed) else {}
    )


def _main(name: str, event_fd: int) -> None:
    _die_with_parent()
    request = json.load(sys.stdin)
    with os.fdopen(event_fd, "w", buffering=1) as events:

        def send(event: Event | Notice) -> None:
            kind = "progress" if isinstance(event, Event) else "warning"
            fields = {field: getattr(event, field) for field in event.__slots__}
            events.write(json.dumps({"kind": kind} | fields) + "\n")

        with listening(send):
            outcome = _outcome_of(name, request)
        events.write(json.dumps({"kind": "outcome"} | outcome) + "\n")
    sys.stdout.flush()
    sys.stderr.flush()
    # Native libraries' exit handlers have crashed after the work was done; the answer is already sent.
    os._exit(0)


def _serve(connection: socket.socket, imports: list[str]) -> None:
    """Fork a child for each task, one at a time, until the caller hangs up.

    The caller sends a line with the task's name and three descriptors: its request, where events go, and its
    log. It gets a line with the child's process id, and one with its exit code.
    """
    _die_with_parent()
    for module in imports:
        # What is missing or broken is for the task to say, in the words of its own error.
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that a collection in a child does not copy every page it shares with the server
    while True:
        line, handles, _, _ = socket.recv_fds(connection, 4096, 3)
        if not line:
            return
        pid = os.fork()
        if pid == 0:
            connection.close()
            _run_forked(line.decode().strip(), *handles)
        with contextlib.suppress(OSError):  # the child does it too: whoever comes first
            os.setpgid(pid, pid)
        for handle in handles:
            os.close(handle)
        connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
        _, status = os.waitpid(pid, 0)
        connection.sendall(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode() + b"\n")


def _run_forked(name: str, request: int, event_fd: int, log: int) -> None:
    """Be the worker of one task, in the child of a fork; does not return."""
    try:
        os.setpgid(0, 0)
        for source, target in ((request, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - it lives as long as the process
        _main(name, event_fd)
    except BaseException:  # noqa: BLE001 - a child must never return into the server's loop
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        _serve(socket.socket(fileno=int(sys.argv[2])), sys.argv[3:])
    else:
        _main(sys.argv[1], int(sys.argv[2]))
