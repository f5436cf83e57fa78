"""The `offline` scenario: all work is there from the beginning, and the result is how much is done a second.

On a CPU several threads keep requests in flight, as many as make the throughput grow; each has buffers of its
own. On a GPU one thread keeps the stream full: requests are enqueued without waiting for the answers.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from bbx.benchmarks.stats import Samples
from bbx.runners.base import Bound

GROWTH = 1.02
"""More requests in flight are worth it when the throughput grows by this."""

GROUPS = 20
_STUDENT_95 = 2.0930
"""Of 19 degrees of freedom."""

_SHORTEST_TRIAL_S = 0.3
_RUNS_A_TRIAL = 4

Now = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Flood:
    """What was done while requests were kept in flight.

    Attributes:
        latencies: int64 [n], nanoseconds from the beginning of a request to its answer, in order of answers.
        gaps: int64 [n], nanoseconds between one answer and the next, the first from the beginning.
    """

    latencies: Samples
    gaps: Samples

    @property
    def wall_ns(self) -> int:
        """From the beginning to the last answer that counts."""
        return int(self.gaps.sum())

    @property
    def rate_per_s(self) -> float:
        """Requests a second."""
        return self.gaps.size / max(self.wall_ns, 1) * 1e9


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second with a 95 % interval, both ends included."""

    value: float
    low: float
    high: float

    @property
    def reach(self) -> float:
        """Distance of the farther end from the value, as a share of it."""
        return max(self.high - self.value, self.value - self.low) / self.value


def flood(steps: Sequence[Callable[[], object]], seconds: float, now: Now = time.perf_counter_ns) -> Flood:
    """Keep one request of each step in flight, each in a thread of its own, for so long.

    Requests that are answered after the end are not counted, unless there is no other.

    Args:
        steps: each runs one request and returns when the answer is complete.

    Raises:
        BbxError: whatever a step raises; the others end after the request that they are at.
    """
    stop = threading.Event()
    begun = now()
    end = begun + seconds * 1e9

    def keep_busy(step: Callable[[], object]) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        begin = now()
        try:
            while not spans or (begin < end and not stop.is_set()):
                step()
                answered = now()
                spans.append((begin, answered))
                begin = answered
        except BaseException:
            stop.set()
            raise
        return spans

    with ThreadPoolExecutor(len(steps)) as pool:
        running = [pool.submit(keep_busy, step) for step in steps]
        try:
            spans = [span for done in running for span in done.result()]
        finally:
            stop.set()
    return _counted(np.array(spans, dtype=np.int64), begun, end)


def _counted(spans: Samples, begun: int, end: float) -> Flood:
    in_order = spans[np.argsort(spans[:, 1], kind="stable")]
    inside = in_order[in_order[:, 1] <= end]
    counted = inside if len(inside) else in_order
    return Flood(counted[:, 1] - counted[:, 0], np.diff(counted[:, 1], prepend=begun))


def joined(floods: Sequence[Flood]) -> Flood:
    """Several floods, one after another."""
    return Flood(
        np.concatenate([each.latencies for each in floods]), np.concatenate([each.gaps for each in floods])
    )


def rate_interval(gaps: Samples) -> Rate | None:
    """Requests a second from the gaps between answers, with Student's interval of 20 group means.

    Neighbouring gaps depend on each other, and means of long groups hardly do: the method of batch means
    (Law, "Simulation Modeling and Analysis", chapter 9).

    Returns:
        None where a group would have fewer than two gaps.
    """
    if gaps.size < 2 * GROUPS:
        return None
    means = np.array([group.mean() for group in np.array_split(gaps, GROUPS)])
    mean = float(gaps.mean())
    error = _STUDENT_95 * float(means.std(ddof=1)) / math.sqrt(GROUPS)
    # A gap is the inverse of a rate, so the ends change places.
    return Rate(1e9 / mean, 1e9 / (mean + error), 1e9 / max(mean - error, 1.0))


def best_in_flight(
    attempt: Callable[[int], Flood], *, most: int, after_trial: Callable[[int, Flood], None] = lambda *_: None
) -> int:
    """How many requests in flight the runtime gains from: twice as many each time, until it does not.

    Args:
        attempt: measures shortly with so many.
        most: no more than this.
    """
    best, rate, count = 1, 0.0, 1
    while count <= most:
        found = attempt(count)
        after_trial(count, found)
        if found.rate_per_s < rate * GROWTH:
            break
        best, rate, count = count, found.rate_per_s, count * 2
    return best


def trial_seconds(run_ns: float, cap_s: float) -> float:
    """How long a look at one number of requests in flight takes."""
    return min(max(_SHORTEST_TRIAL_S, _RUNS_A_TRIAL * run_ns / 1e9), cap_s)


def flood_stream(bound: Bound, runs: int, now: Now = time.perf_counter_ns) -> Flood:
    """Enqueue so many requests on a GPU's stream and wait for the last.

    The answers' own times are not known to the host, so the gaps are the requests' equal shares of the time.
    """
    begun = now()
    latencies = bound.sample(runs)
    share = max(now() - begun, 1) / runs
    return Flood(latencies, np.diff(np.rint(share * np.arange(runs + 1)).astype(np.int64)))
