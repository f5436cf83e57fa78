"""Who does the work of a benchmark: rows one at a time, exports side by side.

A row is measured while nothing else of the benchmark runs. An export spends most of its time in one thread of
an exporter, so several are made at once, each on CPUs of its own, before the rows that need them.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from bbx.benchmarks.contention import usable_cpus
from bbx.errors import Cancelled
from bbx.images import PLUGINS
from bbx.process import interrupt_tasks, launching
from bbx.warm import WarmServers, warm_children

ROW_TASK = "bbx.benchmarks.row:row_task"

MOST_BUILDERS = 4
"""Exports at once; each may take several times its model's weights in memory."""

_ROW = ("bbx.benchmarks.row", "bbx.exporter.judging", "bbx.pipeline.cases", *PLUGINS)
_ORT_ROW = (*_ROW, "onnx", "onnxruntime", "bbx.runners.ort")
_TORCH_ROW = (
    *_ROW,
    "torch",
    "torchvision.models",
    "bbx.models.build",
    "bbx.runners.eager",
    "bbx.runners.torchscript",
)
_EXPORT = (
    *("torchvision.models", "timm", "bbx.exporter.judging", "bbx.pipeline.export", *PLUGINS),
    # What torch imports when it first exports, under its own names for it: one that is gone is imported then.
    *("torch.export._trace", "torch.onnx._internal.exporter._compat"),
    *("onnxscript.rewriter", "onnxscript.function_libs.torch_lib.ops"),
)
_GRACE_S = 5.0

Job = Callable[[], object]


def imports_for(task: str, request: dict[str, Any]) -> tuple[str, ...]:
    """What a task needs and every task of its kind needs; see `bbx.warm`.

    Rows on ONNX Runtime have a server of their own, so that torch is no part of their memory.
    """
    if task != ROW_TASK:
        return _EXPORT if task.startswith("bbx.pipeline.export:") else (task.partition(":")[0],)
    torch = request["runtime"] in ("eager", "compile", "torchscript", "pt2")
    return _TORCH_ROW if torch else _ORT_ROW


class Crew:
    """Threads that each have one task after another carried out, on CPUs of their own.

    Args:
        size: how many, where there are as many CPUs.
    """

    def __init__(self, size: int) -> None:
        cpus = usable_cpus()
        self.size = size = min(size, len(cpus))
        self._servers = [WarmServers(imports_for, cpus=frozenset(cpus[index::size])) for index in range(size)]
        # Kept as long as the servers, which end with the thread that started them.
        self._threads = [ThreadPoolExecutor(1) for _ in self._servers]

    def work(self, jobs: Sequence[Job]) -> None:
        """Do all jobs, in any order.

        Raises:
            Cancelled: this thread was interrupted.
        """
        todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            todo.put(job)
        stop = threading.Event()

        def drain(servers: WarmServers) -> None:
            with launching(servers.launch), contextlib.suppress(queue.Empty):
                while not stop.is_set():
                    todo.get_nowait()()

        pairs = zip(self._threads, self._servers, strict=True)
        running = [thread.submit(drain, servers) for thread, servers in pairs]
        try:
            wait(running)
        except KeyboardInterrupt:
            stop.set()
            interrupt_tasks()
            wait(running, timeout=_GRACE_S)
            raise Cancelled("Cancelled.") from None
        for done in running:
            done.result()

    def dismiss(self) -> None:
        """End the servers, and so whatever is still being made, and then the threads."""
        for servers in self._servers:
            servers.close()
        for thread in self._threads:
            thread.shutdown()


@contextlib.contextmanager
def crew(size: int | None = None) -> Iterator[Crew]:
    """Builders; meanwhile every task of this thread is forked from a server too.

    Args:
        size: exports at once; by default one a CPU, and four at most.
    """
    builders = Crew(size or min(len(usable_cpus()), MOST_BUILDERS))
    try:
        with warm_children(imports_for):
            yield builders
    finally:
        builders.dismiss()
