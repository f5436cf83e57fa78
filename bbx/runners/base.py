"""What every runtime has in common: a context manager that takes arrays by name and gives arrays by name.

Nothing touches a device, a file or a heavy library before `__enter__`. Buffers: `infer` copies its feeds
if it must keep them and returns arrays that the caller owns. `bind` is the measured path: it places the
feeds where the runtime wants them once, and its `sample` runs the same inference again and again with
nothing but the runtime inside the clock.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bbx.errors import BbxError, UsageError
from bbx.types import TensorSpec

Feeds = Mapping[str, NDArray[Any]]
Arrays = dict[str, NDArray[Any]]

_AWAKE_NS = 500_000


def sample_host_clock(step: Callable[[], object], count: int) -> NDArray[np.int64]:
    """Run `step` `count` times and return the duration of each run.

    One clock read a run: the end of one run is the start of the next, so the harness's own cost is that
    read and one list assignment, and no time between two runs goes uncounted.

    Returns:
        int64 [count], nanoseconds of `time.perf_counter_ns`.
    """
    ticks = [0] * (count + 1)
    now = time.perf_counter_ns
    ticks[0] = now()
    for index in range(1, count + 1):
        step()
        ticks[index] = now()
    stamps = np.array(ticks, dtype=np.int64)
    return stamps[1:] - stamps[:-1]


@dataclass(frozen=True, slots=True)
class Bound:
    """One inference on fixed feeds, ready to be repeated.

    Attributes:
        step: runs it once and returns when the answer is complete (for a CUDA runtime: enqueued).
        sample: runs it n times; int64 [n], nanoseconds each, by the runtime's own clock.
        clock: name of that clock, `perf_counter_ns` or `cuda_event`.
        outputs: the outputs of the last run, as arrays the caller owns.
    """

    step: Callable[[], object]
    sample: Callable[[int], NDArray[np.int64]]
    clock: str
    outputs: Callable[[], Arrays]


@dataclass(frozen=True, slots=True)
class Staged:
    """One inference from host memory to host memory, for feeds of the shapes that it was made with.

    Attributes:
        run: gives the outputs, as `Runner.infer` does.
        timed: the same, and nanoseconds by stage. A runtime that computes on the host has one, `compute`.
            One on a device has `h2d`, `compute` and `d2h` by the device's clock, and `enqueue`, which
            is what the host spends on handing the work over.
    """

    run: Callable[[Feeds], Arrays]
    timed: Callable[[Feeds], tuple[Arrays, dict[str, int]]]


class Runner(ABC):
    """A loaded artefact or module on one runtime.

    Use it as a context manager; outside of it only `name` may be read.

    Attributes:
        name: the runtime's name on the command line and in reports.
        device: `cpu` or `cuda`.
        threads: intra-op threads that it computes with, known once it is open; None where the runtime
            has no such thing.
    """

    name: str
    device: str = "cpu"
    threads: int | None = None

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @abstractmethod
    def _open(self) -> None:
        """Load the artefact and take the device's resources."""

    @abstractmethod
    def _close(self) -> None:
        """Give back what `_open` took."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and shape of each input, in the artefact's order."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and shape of each output, in the artefact's order."""

    @abstractmethod
    def infer(self, feeds: Feeds) -> Arrays:
        """Run once.

        Args:
            feeds: one array an input, of its dtype and of a shape that fits it.

        Raises:
            BbxError: a feed is missing, unknown, or of the wrong dtype or shape.
        """

    @abstractmethod
    def bind(self, feeds: Feeds) -> Bound:
        """Place `feeds` where the runtime wants them and return the inference ready to be repeated.

        Raises:
            BbxError: as `infer`.
        """

    def now(self) -> int:
        """The clock that a harness measures warm-up and time limits by, in nanoseconds.

        Real runtimes live by the wall clock; a fake one brings its own.
        """
        return time.perf_counter_ns()

    def wait_until(self, ns: int) -> None:
        """Return when `now` is at least `ns`; sleeps, and is awake for the last half of a millisecond.

        A sleeping thread is woken up to a tenth of a millisecond late.
        """
        while (left := ns - self.now()) > 0:
            if left > _AWAKE_NS:
                time.sleep((left - _AWAKE_NS) / 1e9)

    def stage(self, feeds: Feeds) -> Staged:
        """Prepare for requests that come from host memory and whose answers go there.

        Args:
            feeds: of the shapes to come.

        Raises:
            BbxError: as `infer`.
        """
        self.check(feeds)

        def timed(given: Feeds) -> tuple[Arrays, dict[str, int]]:
            begun = self.now()
            answers = self.infer(given)
            return answers, {"compute": self.now() - begun}

        return Staged(self.infer, timed)

    def pin(self, feeds: Feeds) -> Feeds:
        """The same feeds in page-locked memory, which this runner owns until it is closed.

        Raises:
            UsageError: it computes on the host, where nothing is copied.
        """
        raise UsageError(f"{self.name} computes on the host, and copies nothing to a device.")

    def device_bytes(self) -> int | None:
        """Device memory this runner has taken since it was opened, in bytes; None on the CPU."""
        return None

    def check(self, feeds: Feeds) -> None:
        """Compare feeds with `inputs` before native code sees them.

        Raises:
            BbxError: a feed is missing, unknown, or of the wrong dtype or shape; says which and what fits.
        """
        check_feeds(self.name, self.inputs, feeds)


def check_feeds(runner: str, inputs: tuple[TensorSpec, ...], feeds: Feeds) -> None:
    """See `Runner.check`."""
    wanted = {spec.name: spec for spec in inputs}
    missing, unknown = wanted.keys() - feeds.keys(), feeds.keys() - wanted.keys()
    for problem, names in (("missing", missing), ("unknown", unknown)):
        if names:
            hint = f"The inputs are {sorted(wanted)}."
            raise BbxError(f"The feeds of {runner}: {problem} {sorted(names)}.", hint=hint)
    for name, spec in wanted.items():
        feed = feeds[name]
        fits = len(feed.shape) == len(spec.shape) and all(
            want is None or want == size for want, size in zip(spec.shape, feed.shape, strict=True)
        )
        if str(feed.dtype) != spec.dtype or not fits:
            raise BbxError(
                f"{runner}: input {name!r} is {spec.dtype} {list(spec.shape)}, "
                f"and was given {feed.dtype} {list(feed.shape)}."
            )
