"""Measuring an inference as its scenario asks for it."""

from __future__ import annotations

from bbx.benchmarks.conditions import Cache, Scenario
from bbx.benchmarks.measure import measure
from bbx.benchmarks.scenarios.cold import Cold, evicting
from bbx.benchmarks.scenarios.take_offline import take_offline
from bbx.benchmarks.scenarios.take_server import take_server
from bbx.benchmarks.scenarios.task import Taken, Task


def take(task: Task, scenario: Scenario, *, cache: Cache = "hot", slo_ns: int | None = None) -> Taken:
    """Measure a row.

    Args:
        slo_ns: the limit of `server`.

    Raises:
        BbxError: an inference failed, or no rate meets the limit.
    """
    if scenario == "offline":
        return take_offline(task)
    if scenario == "server" and slo_ns is not None:
        return take_server(task, slo_ns)
    return take_one_at_a_time(task, empty_caches=cache == "cold")


def take_one_at_a_time(task: Task, *, empty_caches: bool = False) -> Taken:
    """The scenarios `single` and `multi`: the next request begins when the last is answered."""
    runner, bound = task.runner, task.bind()
    if not empty_caches:
        measured = measure(bound, runner.device, task.profile, now=runner.now, between=task.between)
        return Taken(measured, bound, measured.runs_per_s)
    with evicting() as evictor:
        cold = Cold(bound, evictor, runner.now)
        measured = measure(
            cold.bound(),
            runner.device,
            task.profile,
            now=runner.now,
            between=task.between,
            idle=lambda: cold.idle_ns,
        )
    return Taken(measured, bound, measured.runs_per_s)
