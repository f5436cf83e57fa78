"""Requests from their source to their answer: what is a phase, what is not there, and what adds up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bbx.benchmarks import bench as bench_module
from bbx.benchmarks.bench import bench
from bbx.benchmarks.measure import PROFILES
from bbx.benchmarks.reports.samples import traces_in
from bbx.benchmarks.scenarios.phases import (
    Journey,
    bound_reasons,
    from_memory,
    from_photographs,
    phase_reasons,
    sample_phases,
    summary_of,
)
from bbx.benchmarks.scenarios.take import take
from bbx.benchmarks.scenarios.task import Task
from bbx.benchmarks.stats import Samples
from bbx.errors import UnavailableError, UsageError
from bbx.images import photograph_batch
from bbx.runners.fake import FakeRunner
from bbx.types import Postprocess, Preprocess, TensorSpec
from tests.benchmarks.test_bench import write_graph

MS = 1_000_000
HOW = Preprocess(height=16, width=16)
INPUTS = (TensorSpec("images", "float32", (None, 3, 16, 16)),)
LOGITS = (TensorSpec("logits", "float32", (None, 5)),)
FEATURES = (TensorSpec("features", "float32", (None, 5)),)
CLASSES = Postprocess("classification", num_classes=5)
STAGES = {"h2d": 2 * MS, "enqueue": MS // 2, "d2h": MS}
FEEDS = {"images": photograph_batch(HOW, 2)}


def gpu() -> FakeRunner:
    """A fake that claims to compute 4 ms on a device, with 3 ms of copies."""
    return FakeRunner(INPUTS, LOGITS, latency=4 * MS, device="cuda", stages=STAGES)


def literal(**phases: int) -> dict[str, Samples]:
    return {name: np.full(20, value * MS) for name, value in phases.items()}


def sampled(
    journey: Journey, runner: FakeRunner, *, at_least_s: float = 0.05, cap_s: float = 9.0, **more: int
) -> dict[str, Samples]:
    return sample_phases(journey, runner.now, at_least_s=at_least_s, cap_s=cap_s, **more)


def test_a_photograph_on_a_cpu_has_no_copies() -> None:
    with FakeRunner(INPUTS, LOGITS, latency=4 * MS) as runner:
        journey = from_photographs(runner, FEEDS, HOW, CLASSES, 2)
        phases = sampled(journey, runner)
    assert set(phases) == {"pre", "compute", "post", "end_to_end"}
    assert (phases["compute"] == 4 * MS).all()


def test_a_photograph_on_a_gpu_has_every_phase() -> None:
    with gpu() as runner:
        journey = from_photographs(runner, FEEDS, HOW, CLASSES, 2)
        phases = sampled(journey, runner)
    assert {name: int(np.median(values)) for name, values in phases.items()} == {
        "pre": 0,
        "h2d": 2 * MS,
        "enqueue": MS // 2,
        "compute": 4 * MS,
        "d2h": MS,
        "post": 0,
        "end_to_end": 7 * MS,
    }
    assert phase_reasons(phases) == []


@pytest.mark.parametrize("pinned", [False, True])
def test_an_array_needs_no_preprocessing_and_its_outputs_no_restoring(pinned: bool) -> None:
    with gpu() as runner:
        phases = sampled(from_memory(runner, FEEDS, pinned=pinned), runner)
    assert set(phases) == {"h2d", "enqueue", "compute", "d2h", "end_to_end"}


def test_the_row_is_the_whole_and_not_a_sum() -> None:
    with gpu() as runner:
        journey = from_memory(runner, FEEDS, pinned=True)
        assert journey.bound().clock == "perf_counter_ns"
        calls = runner.calls
        found = take(Task(runner, journey.bound, PROFILES["quick"]), "single")
    assert calls == 1
    assert found.bound.outputs()["logits"].shape == (2, 5)


def test_the_answers_are_those_of_the_photographs() -> None:
    with FakeRunner(INPUTS, LOGITS) as runner:
        answers = from_photographs(runner, FEEDS, HOW, CLASSES, 2).whole()
        assert np.array_equal(answers["logits"], runner.infer(FEEDS)["logits"])


@pytest.mark.parametrize(
    ("outputs", "means"), [(FEATURES, Postprocess("classification")), (LOGITS, None), (FEATURES, None)]
)
def test_outputs_that_say_nothing_about_an_image_are_not_restored(
    outputs: tuple[TensorSpec, ...], means: Postprocess | None
) -> None:
    with FakeRunner(INPUTS, outputs) as runner:
        phases = sampled(from_photographs(runner, FEEDS, HOW, means, 2), runner)
    assert set(phases) == {"pre", "compute", "end_to_end"}


def test_an_input_that_is_no_image_has_no_photograph() -> None:
    words = (TensorSpec("words", "int64", (None, 7)),)
    with FakeRunner(words, LOGITS) as runner, pytest.raises(UsageError, match="takes no image"):
        from_photographs(runner, {"words": np.zeros((1, 7), np.int64)}, None, None, 1)


def test_a_runner_on_the_host_pins_nothing() -> None:
    with FakeRunner(INPUTS, LOGITS) as runner, pytest.raises(UsageError, match="computes on the host"):
        from_memory(runner, FEEDS, pinned=True)


@pytest.mark.parametrize(
    ("phases", "inconsistent"),
    [
        ({"pre": 10, "compute": 80, "post": 10, "end_to_end": 100}, False),
        ({"pre": 10, "compute": 80, "post": 10, "end_to_end": 120}, False),
        ({"pre": 12, "compute": 82, "post": 10, "end_to_end": 100}, False),
        ({"pre": 12, "compute": 84, "post": 10, "end_to_end": 100}, True),
        # Enqueueing overlaps with computing, and is not added.
        ({"h2d": 10, "enqueue": 70, "compute": 80, "d2h": 10, "end_to_end": 100}, False),
        ({"h2d": 10, "enqueue": 1, "compute": 90, "d2h": 10, "end_to_end": 100}, True),
    ],
)
def test_phases_longer_than_the_whole_are_inconsistent(phases: dict[str, int], inconsistent: bool) -> None:
    reasons = phase_reasons(literal(**phases))
    assert [reason.verdict for reason in reasons] == ["inconsistent"] * inconsistent


@pytest.mark.parametrize(
    ("phases", "verdicts"),
    [
        ({"h2d": 4, "enqueue": 9, "compute": 10, "d2h": 5}, []),
        ({"h2d": 4, "enqueue": 10, "compute": 10, "d2h": 5}, ["enqueue_bound"]),
        ({"h2d": 8, "enqueue": 1, "compute": 10, "d2h": 3}, ["transfer_bound"]),
        ({"h2d": 8, "enqueue": 20, "compute": 10, "d2h": 3}, ["enqueue_bound", "transfer_bound"]),
        ({"pre": 80, "compute": 10}, []),
    ],
)
def test_a_number_of_the_host_or_the_bus_is_not_one_of_the_device(
    phases: dict[str, int], verdicts: list[str]
) -> None:
    assert [reason.verdict for reason in bound_reasons(literal(**phases))] == verdicts


def test_phases_that_are_longer_by_chance_are_not() -> None:
    random = np.random.default_rng(0)
    noisy = {
        name: (100 * MS * random.lognormal(0, 0.3, 12)).astype(np.int64) for name in ("compute", "end_to_end")
    }
    assert phase_reasons(noisy) == []


def test_a_summary_has_a_median_an_interval_and_a_count() -> None:
    found = summary_of(literal(pre=2, end_to_end=10) | {"compute": np.array([MS, 2 * MS, 3 * MS])})
    assert found["pre"] == {"median": 2.0 * MS, "ci95": [2 * MS, 2 * MS], "samples": 20}
    assert found["compute"] == {"median": 2.0 * MS, "ci95": None, "samples": 3}


def test_phases_are_sampled_for_some_time_and_often_enough() -> None:
    with gpu() as runner:
        journey = from_memory(runner, FEEDS, pinned=False)
        turn_s = 14e-3
        assert sampled(journey, runner, at_least_s=0.0)["compute"].size == 12
        assert sampled(journey, runner, at_least_s=1.0)["compute"].size == pytest.approx(1 / turn_s, abs=2)
        assert sampled(journey, runner, at_least_s=1.0, most=20)["compute"].size == 20
        assert sampled(journey, runner, at_least_s=1.0, cap_s=5 * turn_s)["compute"].size == 5
        assert sampled(journey, runner, at_least_s=1.0, cap_s=0.0)["compute"].size == 1


def test_phases_of_which_there_are_too_few_are_not_judged() -> None:
    few = {name: values[:7] for name, values in literal(compute=200, end_to_end=100).items()}
    assert phase_reasons(few) == []


def test_a_journey_is_made_in_the_order_of_its_phases() -> None:
    order: list[str] = []
    with FakeRunner(INPUTS, LOGITS) as runner:
        staged = runner.stage(FEEDS)

        def pre() -> Any:
            order.append("pre")
            return FEEDS

        journey = Journey(pre, {}, staged, lambda answers: order.append(*answers))
        journey.whole()
        journey.in_phases(runner.now)
    assert order == ["pre", "logits", "pre", "logits"]


def test_rows_from_a_photograph_and_from_an_array_stand_beside_each_other(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "net.onnx")
    found = bench(
        [str(graph)],
        runtimes=["ort-cpu"],
        out=tmp_path / "out",
        threads=1,
        residences=["pageable", "image"],
    )
    plain, image = found["results"]
    assert (plain["residence"], image["residence"]) == ("pageable", "image")
    assert image["key"] == plain["key"] + "/image"
    assert "phases_ns" not in plain
    assert set(image["phases_ns"]) == {"pre", "compute", "end_to_end"}
    assert image["phases_ns"]["end_to_end"]["samples"] >= 12
    assert image["latency_ns"]["median"] > plain["latency_ns"]["median"]
    assert image["parity"]["verdict"] == "pass"
    trace = traces_in(tmp_path / "out", found)(image)
    assert trace is not None
    assert trace[0].size == image["runs"]


def test_a_limit_that_cannot_be_met_is_a_row_with_its_reason(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "net.onnx")
    found = bench(
        [str(graph)],
        runtimes=["ort-cpu"],
        out=tmp_path / "out",
        threads=1,
        scenarios=["server"],
        slo_ms=0.0001,
    )
    [row] = found["results"]
    assert (row["verdict"], row["latency_ns"], row["slo_ns"]) == ("failed", None, 100)
    assert "No rate meets the limit of 0.0001000 ms: one request at a time" in row["reasons"][0]["text"]
    assert "--slo" in row["reasons"][0]["remedy"]
    assert "--scenario server --slo 0.0001" in row["command"]


def test_a_residence_on_a_device_is_refused_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_module, "describe", lambda: {"gpu": None})
    with pytest.raises(UnavailableError, match="--residence pinned needs an NVIDIA GPU"):
        bench(["resnet18"], out=tmp_path / "out", residences=["pinned"])
    assert not (tmp_path / "out").exists()
