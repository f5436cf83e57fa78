"""The child's side of `bbx.process.run_task`: `python -m bbx.worker package.module:function EVENT_FD`."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
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


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
