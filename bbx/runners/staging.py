"""An inference on a device from host memory to host memory, in stages, for runtimes that are not torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from bbx.runners.base import Arrays, Feeds, Staged
from bbx.runners.device import PinnedArray, Stream, copy_to_device, copy_to_host

Step = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Passage:
    """What has to be enqueued for one request.

    Attributes:
        upload, compute, download: each enqueues its part.
        answers: filled when all three are done.
    """

    upload: Step
    compute: Step
    download: Step
    answers: Arrays


def through(
    addresses: Mapping[str, int], feeds: Feeds, answers: Arrays, compute: Step, stream: Stream
) -> Passage:
    """The passage of feeds into device memory, and of outputs out of it.

    Args:
        addresses: device pointers of inputs and outputs, by name.
        answers: C-contiguous arrays to be filled.
        compute: enqueues the inference on the stream.
    """
    given = {name: np.ascontiguousarray(feed) for name, feed in feeds.items()}

    def upload() -> None:
        for name, array in given.items():
            copy_to_device(addresses[name], array, stream)

    def download() -> None:
        for name, array in answers.items():
            copy_to_host(array, addresses[name], stream)

    return Passage(upload, compute, download, answers)


def pinned(feeds: Feeds, owned: ExitStack) -> Feeds:
    """The same feeds in page-locked memory, until `owned` is closed."""
    copies = {}
    for name, feed in feeds.items():
        locked = PinnedArray(feed)
        owned.callback(locked.free)
        copies[name] = locked.array
    return copies


def staged(stream: Stream, passage: Callable[[Feeds], Passage]) -> Staged:
    """Requests on a stream.

    Args:
        passage: what feeds make necessary.
    """

    def run(feeds: Feeds) -> Arrays:
        needed = passage(feeds)
        for step in (needed.upload, needed.compute, needed.download):
            step()
        stream.synchronize()
        return needed.answers

    def timed(feeds: Feeds) -> tuple[Arrays, dict[str, int]]:
        needed = passage(feeds)
        enqueue_ns = 0

        def compute() -> None:
            nonlocal enqueue_ns
            begun = time.perf_counter_ns()
            needed.compute()
            enqueue_ns = time.perf_counter_ns() - begun

        up, on_device, down = stream.timed((needed.upload, compute, needed.download))
        stages = {"h2d": up, "enqueue": enqueue_ns, "compute": on_device, "d2h": down}
        return needed.answers, stages

    return Staged(run, timed)
