"""Runners that go wrong in the ways that published tables show, each through a whole row: all are flagged.

And runners that do not go wrong, which are not.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bbx.benchmarks import bench as bench_module
from bbx.benchmarks import measure as measure_module
from bbx.benchmarks import row as row_module
from bbx.benchmarks.bench import bench
from bbx.benchmarks.contention import Counters, read_counters
from bbx.runners import registry
from bbx.runners.base import Bound, Feeds, Runner, sample_host_clock
from bbx.runners.fake import FakeRunner, Fault, bimodal, drift, jitter
from bbx.runners.ort import OrtRunner
from bbx.types import TensorSpec
from tests.benchmarks.graphs import write_graph

INPUTS = (TensorSpec("images", "float32", (None, 3, 32, 32)),)
OUTPUTS = (TensorSpec("logits", "float32", (None, 5)),)
CLEAN = jitter(1_000_000, 0.02)

RowOf = Callable[[Runner], dict[str, Any]]
Fake = Callable[..., FakeRunner]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_graph(tmp_path / "net.onnx")


@pytest.fixture
def row_of(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RowOf:
    """The row of the report when this runner runs the graph in the place of OpenVINO."""

    def measured(runner: Runner) -> dict[str, Any]:
        def open_runner(runtime: str, *arguments: Any, **options: Any) -> Runner:
            return runner if runtime == "openvino" else registry.open_runner(runtime, *arguments, **options)

        # In this process, since a child has runners of its own.
        monkeypatch.setattr(bench_module, "in_child", lambda listener: row_module.row_task)
        monkeypatch.setattr(row_module, "open_runner", open_runner)
        [row] = bench([str(graph)], runtimes=["openvino"], out=tmp_path / "out")["results"]
        assert row["latency_ns"] is not None, row["reasons"]
        return row

    return measured


@pytest.fixture
def fake(graph: Path) -> Iterator[Fake]:
    """Makes fakes that answer as the graph does."""
    with OrtRunner(graph, threads=1) as real:

        def made(**options: Any) -> FakeRunner:
            return FakeRunner(INPUTS, OUTPUTS, **({"latency": CLEAN, "respond": real.infer} | options))

        yield made


class Altered(OrtRunner):
    """ONNX Runtime whose measured path is another one."""

    def __init__(self, path: Path, change: Callable[[Bound], Bound], threads: int = 1) -> None:
        super().__init__(path, threads=threads)
        self._change = change

    def bind(self, feeds: Feeds) -> Bound:
        return self._change(super().bind(feeds))


def brief() -> None:
    """An instant, so that a second does not hold millions of runs."""
    end = time.perf_counter_ns() + 50_000
    while time.perf_counter_ns() < end:
        pass


def stepping(step: Callable[[], object]) -> Callable[[Bound], Bound]:
    """A measured path that does this in the place of an inference."""
    return lambda bound: replace(bound, step=step, sample=lambda count: sample_host_clock(step, count))


def texts(row: dict[str, Any]) -> str:
    return "\n".join(reason["text"] for reason in row["reasons"])


def test_two_speeds_are_flagged(row_of: RowOf, fake: Fake) -> None:
    row = row_of(fake(latency=bimodal(1_000_000, 2_000_000, every=3)))
    assert row["verdict"] == "unstable"
    assert "two speeds" in texts(row)


def test_a_device_that_gets_slower_is_flagged(row_of: RowOf, fake: Fake) -> None:
    row = row_of(fake(latency=drift(1_000_000, 150)))
    assert row["verdict"] == "unstable"
    assert "on the way" in texts(row)


def test_a_cpu_clock_that_falls_is_flagged(
    row_of: RowOf, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    khz = iter((3_000_000.0, 2_000_000.0))
    monkeypatch.setattr(
        measure_module, "read_counters", lambda: replace(read_counters(), khz=next(khz), thermal_events=0)
    )
    row = row_of(fake())
    assert row["verdict"] == "throttled"
    assert "fell to 67%" in texts(row)


def test_a_runner_that_caches_its_answer_is_flagged(row_of: RowOf, fake: Fake) -> None:
    assert row_of(fake(cached=True))["verdict"] == "parity_failed"


def test_wrong_answers_are_flagged(row_of: RowOf, fake: Fake) -> None:
    turns = itertools.count()

    def respond(feeds: Feeds) -> dict[str, Any]:
        rows = len(feeds["images"])
        return {"logits": np.full((rows, 5), float(next(turns)), dtype=np.float32)}

    assert row_of(fake(respond=respond))["verdict"] == "parity_failed"


def test_a_runner_that_leaves_its_work_to_the_reader_is_flagged(row_of: RowOf, fake: Fake) -> None:
    row = row_of(fake(latency=jitter(100_000, 0.02), deferred_ns=900_000))
    assert row["verdict"] == "inconsistent"
    assert "returns before its work is done" in texts(row)


def test_a_real_runner_that_works_only_when_asked_for_the_answer_is_flagged(
    row_of: RowOf, graph: Path
) -> None:
    def lazily(bound: Bound) -> Bound:
        owed: list[bool] = []

        def step() -> None:
            owed[:] = [True]
            brief()

        def outputs() -> dict[str, Any]:
            if owed:
                owed.clear()
                for _ in range(20):
                    bound.step()
            return bound.outputs()

        return replace(stepping(step)(bound), outputs=outputs)

    row = row_of(Altered(graph, lazily))
    assert row["verdict"] == "inconsistent"
    assert "returns before its work is done" in texts(row)


def test_a_runner_faster_than_the_machine_is_flagged(row_of: RowOf, graph: Path) -> None:
    def idle(bound: Bound) -> Bound:
        return stepping(brief)(bound)

    # A network with work enough that no machine does it in the time of an empty call.
    write_graph(graph, side=256, channels=512)
    row = row_of(Altered(graph, idle))
    assert row["verdict"] == "inconsistent"
    assert "the work was not done" in texts(row)


def test_compiling_inside_the_measurement_is_flagged(row_of: RowOf, fake: Fake) -> None:
    # As TorchScript's profiling executor: the first call records, the second compiles, the third runs.
    row = row_of(fake(latency=lambda index: (700_000_000, 1_500_000_000)[index] if index < 2 else 10_000_000))
    assert row["verdict"] in ("inconsistent", "unstable")
    assert "compiled or loaded inside the measurement" in texts(row)


def test_rare_stalls_are_flagged(row_of: RowOf, fake: Fake) -> None:
    stalls = [Fault(at=index, stall_ns=400_000_000) for index in range(700, 4000, 900)]
    row = row_of(fake(faults=stalls))
    assert row["verdict"] == "inconsistent"
    assert "above the 99th percentile" in texts(row)


def test_a_thread_that_sleeps_is_flagged(row_of: RowOf, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleepy(bound: Bound) -> Bound:
        def step() -> None:
            bound.step()
            time.sleep(0.004)

        return stepping(step)(bound)

    def alone() -> Counters:
        """As on a machine where nothing else runs, so that the CPUs that sleep are idle."""
        counters = read_counters()
        return replace(counters, busy_s=counters.own_s, steal_s=0.0, involuntary=0)

    monkeypatch.setattr(measure_module, "read_counters", alone)
    row = row_of(Altered(graph, sleepy))
    assert row["verdict"] == "inconsistent"
    assert "most of their time they waited" in texts(row)


@pytest.fixture
def neighbours() -> Iterator[None]:
    """Processes that keep every CPU busy."""
    burn = "while True: pass"
    count = len(measure_module.usable_cpus())
    running = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(count)]
    time.sleep(0.2)  # until they have begun
    yield
    for each in running:
        each.kill()
        each.wait()


@pytest.mark.usefixtures("neighbours")
def test_a_load_on_the_other_cpus_is_flagged(row_of: RowOf, graph: Path) -> None:
    row = row_of(OrtRunner(graph, threads=1))
    assert "contended" in [reason["verdict"] for reason in row["reasons"]]


def test_of_two_hundred_clean_runs_at_most_one_is_called_anything_but_valid(
    row_of: RowOf, fake: Fake
) -> None:
    doubted = []
    for seed in range(200):
        spread = (0.005, 0.01, 0.02, 0.05)[seed % 4]
        row = row_of(fake(latency=jitter(500_000 * (1 + seed % 8), spread, seed=seed)))
        doubted += [(seed, row["reasons"])] if row["verdict"] != "valid" else []
    assert len(doubted) <= 1, doubted


def test_a_clean_real_run_has_none_of_the_runners_faults(row_of: RowOf, graph: Path) -> None:
    row = row_of(OrtRunner(graph, threads=1))
    told = texts(row)
    # What else runs on the machine may be told of; nothing may be said of the runner.
    for fault in (
        "before its work",
        "was not done",
        "they waited",
        "inside the measurement",
        "clock does not",
    ):
        assert fault not in told
    assert row["parity"]["verdict"] == "pass"
