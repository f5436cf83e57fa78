"""Many builds in one script: a process for each, as always, but without importing torch anew each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bbx.warm import warm_children

_MODULES = (
    "torchvision.models",
    "timm",
    "onnxruntime",
    "onnxscript.rewriter",
    "bbx.models.build",
    "bbx.exporter.judging",
    "bbx.pipeline.export",
    "bbx.pipeline.typed",
    "bbx.pipeline.quantize",
    "bbx.pipeline.staged",
)


@contextmanager
def warm() -> Iterator[None]:
    """Fork the tasks of this thread from one process that has imported what exporting and quantising need."""
    with warm_children(lambda _task, _request: _MODULES):
        yield
