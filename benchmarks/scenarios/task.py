"""What a scenario is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bbx.benchmarks.contention import Counters, load_between, read_counters, usable_cpus
from bbx.benchmarks.measure import Measurement, Profile, warmed_up
from bbx.benchmarks.stats import Samples, summarise
from bbx.benchmarks.verdicts import Reason
from bbx.runners.base import Bound, Runner


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be measured, and how long.

    Attributes:
        runner: whose clock is lived by.
        bind: makes an inference ready to be repeated; each has buffers of its own.
        between: called now and then, never inside the clock.
    """

    runner: Runner
    bind: Callable[[], Bound]
    profile: Profile
    between: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Taken:
    """What a scenario gave.

    Attributes:
        bound: the inference that was measured; its outputs are those of the last run.
        requests_per_s: the scenario's result; None where it has found none.
        reasons: of its own, not to believe it.
        one_at_a_time: whether each request began when the last was answered, so that the trace may be judged
            as a sequence of equals.
        facts: fields that only rows of this scenario have.
    """

    measured: Measurement
    bound: Bound
    requests_per_s: float | None
    reasons: tuple[Reason, ...] = ()
    one_at_a_time: bool = True
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Warm:
    """An inference whose speed has settled, as far as the profile let it.

    Attributes:
        samples: int64 [m], nanoseconds of the runs so far.
        before: the machine's counters after them.
    """

    task: Task
    bound: Bound
    samples: Samples
    settled: bool
    before: Counters

    @property
    def run_ns(self) -> float:
        """Nanoseconds of a run."""
        return max(1.0, float(np.median(self.samples)))

    def measurement(
        self, latencies: Samples, wall_ns: int, stopped: Literal["converged", "capped"]
    ) -> Measurement:
        """The latencies of what was done since, as a measurement."""
        return Measurement(
            samples=latencies,
            warm_up=self.samples,
            settled=self.settled,
            wall_ns=wall_ns,
            clock=self.bound.clock,
            target=self.task.profile.target[self.task.runner.device],
            stopped=stopped,
            summary=summarise(latencies),
            load=load_between(self.before, read_counters(), cores=len(usable_cpus())),
        )


def warm(task: Task) -> Warm:
    """Bind an inference and warm it up."""
    bound = task.bind()
    samples, settled = warmed_up(bound, task.profile, task.runner.now)
    return Warm(task, bound, samples, settled, read_counters())
