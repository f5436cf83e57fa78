"""The runner without a runtime: for tests of everything that takes a runner.

Public API. It answers at once, on any machine, with what it was told to answer, and it lives by a clock of
its own, which its inferences advance: a harness that asks the runner for the time (`Runner.now`) goes
through seconds of warm-up in microseconds, and always the same way.

    runner = FakeRunner(inputs, outputs, latency=bimodal(1_000_000, 3_000_000, every=10))
    runner = FakeRunner(inputs, outputs, faults=[Fault(at=100, error=BbxError("the device is gone"))])
    runner = FakeRunner(inputs, outputs, cached=True)      # gives its first answer for ever
    runner = FakeRunner(inputs, outputs, deferred_ns=900_000)      # returns before its work is done
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bbx.errors import UsageError
from bbx.runners.base import Arrays, Bound, Feeds, Runner, Staged
from bbx.types import TensorSpec

Latency = int | Sequence[int] | Callable[[int], int]
"""Nanoseconds of each inference: always the same, a list that is gone through in circles, or a function of
the inference's index, which counts from nought when the runner is opened."""

Respond = Callable[[Feeds], Arrays]


class VirtualClock:
    """A clock that moves only when it is told to.

    Attributes:
        ns: nanoseconds since it was made.
    """

    def __init__(self) -> None:
        self.ns = 0

    def advance(self, ns: int) -> None:
        """Move the clock on."""
        self.ns += ns


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong in one inference.

    Attributes:
        at: index of the inference.
        error: raised in place of an answer.
        stall_ns: time lost on top of the latency.
    """

    at: int
    error: Exception | None = None
    stall_ns: int = 0


def bimodal(fast_ns: int, slow_ns: int, *, every: int) -> Callable[[int], int]:
    """Latency of a runtime that is slow in every `every`-th inference."""
    return lambda index: slow_ns if index % every == every - 1 else fast_ns


def drift(start_ns: int, step_ns: int) -> Callable[[int], int]:
    """Latency of a runtime that gets slower by `step_ns` an inference, as a throttled device does."""
    return lambda index: start_ns + index * step_ns


def jitter(median_ns: int, spread: float, *, seed: int = 0) -> Callable[[int], int]:
    """Latency with seeded log-normal noise: `spread` is the standard deviation of the logarithm."""
    noise = np.exp(spread * np.random.default_rng(seed).standard_normal(4096))
    return lambda index: int(median_ns * noise[index % noise.size])


class FakeRunner(Runner):
    """A runner that computes nothing.

    Args:
        inputs, outputs: what it claims to take and give.
        latency: see `Latency`.
        respond: makes the outputs from the feeds; by default each output's rows hold the means of the rows
            of the first feed, so that other feeds give other answers.
        faults: what goes wrong, and when.
        cached: give the first answer for ever, as a runtime does that skips work it was not given again.
        deferred_ns: work that each inference leaves undone and that whoever reads its answer waits for.
        clock: advanced by each inference; shared between runners that are measured in turns.
        device: what it claims to run on.
        stages: nanoseconds of `h2d`, `enqueue` and `d2h`, for a fake that claims to run on a device.
    """

    name = "fake"

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        latency: Latency = 1_000_000,
        respond: Respond | None = None,
        faults: Iterable[Fault] = (),
        cached: bool = False,
        deferred_ns: int = 0,
        clock: VirtualClock | None = None,
        device: str = "cpu",
        stages: Mapping[str, int] | None = None,
    ) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._latency = _latency_function(latency)
        self._respond = respond or self._row_means
        self._faults = {fault.at: fault for fault in faults}
        self._cached = cached
        self._answer: Arrays | None = None
        self._deferred_ns = deferred_ns
        self._undone_ns = 0
        self._clock = clock or VirtualClock()
        self._open_now = False
        self.calls = 0
        self._stages = dict(stages or {})
        self.device = device
        self.threads = 1

    def _open(self) -> None:
        self._open_now = True
        self.calls = 0
        self._answer = None

    def _close(self) -> None:
        self._open_now = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    def now(self) -> int:
        return self._clock.ns

    def wait_until(self, ns: int) -> None:
        self._clock.advance(max(0, ns - self._clock.ns))

    def stage(self, feeds: Feeds) -> Staged:
        if self.device == "cpu":
            return super().stage(feeds)
        self.check(feeds)

        def timed(given: Feeds) -> tuple[Arrays, dict[str, int]]:
            # What is enqueued is computed meanwhile, so that it takes no time of its own.
            self._clock.advance(sum(self._stages.get(name, 0) for name in ("h2d", "d2h")))
            return self._answer_to(given), {"compute": self._run()} | self._stages

        return Staged(lambda given: timed(given)[0], timed)

    def pin(self, feeds: Feeds) -> Feeds:
        return super().pin(feeds) if self.device == "cpu" else dict(feeds)

    def infer(self, feeds: Feeds) -> Arrays:
        self.check(feeds)
        self._run()
        return self._answer_to(feeds)

    def bind(self, feeds: Feeds) -> Bound:
        self.check(feeds)
        kept = {name: np.array(feed) for name, feed in feeds.items()}

        def sample(count: int) -> NDArray[np.int64]:
            return np.array([self._run() for _ in range(count)], dtype=np.int64)

        return Bound(self._run, sample, "virtual", lambda: self._answer_to(kept))

    def _run(self) -> int:
        """Advance the clock by one inference and return how long it took."""
        if not self._open_now:
            raise UsageError("fake: the runner is not open.", hint="Use it in a `with` block.")
        index = self.calls
        self.calls += 1
        fault = self._faults.get(index, Fault(index))
        taken = self._latency(index) + fault.stall_ns
        self._clock.advance(taken)
        self._undone_ns = self._deferred_ns
        if fault.error is not None:
            raise fault.error
        return taken

    def _answer_to(self, feeds: Feeds) -> Arrays:
        self._clock.advance(self._undone_ns)
        self._undone_ns = 0
        if self._answer is None or not self._cached:
            self._answer = self._respond(feeds)
        return {name: np.array(value) for name, value in self._answer.items()}

    def _row_means(self, feeds: Feeds) -> Arrays:
        first: NDArray[Any] = feeds[self._inputs[0].name]
        rows = np.asarray(first, dtype=np.float64).reshape(len(first), -1).mean(axis=1)
        answers = {}
        for spec in self._outputs:
            shape = spec.concrete(len(first))
            column = rows.reshape(-1, *(1 for _ in shape[1:]))
            answers[spec.name] = np.broadcast_to(column, shape).astype(spec.dtype)
        return answers


def _latency_function(latency: Latency) -> Callable[[int], int]:
    if isinstance(latency, int):
        constant = latency
        return lambda _: constant
    if callable(latency):
        return latency
    values = list(latency)
    if not values:
        raise UsageError("fake: a list of latencies needs at least one.")
    return lambda index: values[index % len(values)]
