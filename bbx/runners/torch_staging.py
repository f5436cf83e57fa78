"""An inference of torch on a GPU from host memory to host memory, in stages."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bbx.runners.base import Arrays, Feeds, Staged


def shared_tensor(array: NDArray[Any]) -> torch.Tensor:
    """A tensor on the CPU that shares a NumPy array's memory; `bfloat16` (ml_dtypes) is understood."""
    there = np.ascontiguousarray(array)
    if str(there.dtype) == "bfloat16":
        return torch.from_numpy(there.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(there)


def pinned(feeds: Feeds) -> Feeds:
    """The same feeds in page-locked memory, which lives as long as the arrays do."""
    locked = {}
    for name, feed in feeds.items():
        raw = np.ascontiguousarray(feed).view(np.uint8)
        locked[name] = torch.from_numpy(raw).pin_memory().numpy().view(feed.dtype)
    return locked


def staged_on_cuda(
    upload: Callable[[Feeds], tuple[torch.Tensor, ...]],
    forward: Callable[..., Any],
    download: Callable[[Any], Arrays],
    guard: Callable[[], AbstractContextManager[None]],
) -> Staged:
    """Requests on torch's current stream.

    Args:
        upload: enqueues the copies of feeds to the device.
        download: copies what `forward` gave to the host, and waits for it.
        guard: turns what torch raises into errors of bbx.
    """

    def run(feeds: Feeds) -> Arrays:
        with torch.inference_mode(), guard():
            return download(forward(*upload(feeds)))

    def timed(feeds: Feeds) -> tuple[Arrays, dict[str, int]]:
        event: Callable[[], torch.cuda.Event] = partial(torch.cuda.Event, enable_timing=True)
        marks = [event() for _ in range(4)]
        with torch.inference_mode(), guard():
            marks[0].record()
            tensors = upload(feeds)
            marks[1].record()
            begun = time.perf_counter_ns()
            result = forward(*tensors)
            enqueue_ns = time.perf_counter_ns() - begun
            marks[2].record()
            answers = download(result)
            marks[3].record()
            torch.cuda.synchronize()
        spans = (start.elapsed_time(stop) for start, stop in itertools.pairwise(marks))
        up, on_device, down = (round(milliseconds * 1e6) for milliseconds in spans)
        return answers, {"h2d": up, "enqueue": enqueue_ns, "compute": on_device, "d2h": down}

    return Staged(run, timed)
