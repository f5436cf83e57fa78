"""What is enqueued for a request from host memory, with memory and a stream that are none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from bbx.errors import BbxError, UsageError
from bbx.runners import staging
from bbx.runners.base import Feeds, Runner
from bbx.runners.fake import FakeRunner
from bbx.types import TensorSpec

INPUTS = (TensorSpec("images", "float32", (None, 4)),)
FEEDS = {"images": np.ones((2, 4), dtype=np.float32)}


class Stream:
    """Does at once what is enqueued, and says that each step took a microsecond more than the last."""

    def __init__(self) -> None:
        self.waits = 0

    def synchronize(self) -> None:
        self.waits += 1

    def timed(self, steps: Sequence[Callable[[], object]]) -> list[int]:
        for step in steps:
            step()
        return [1000 * (index + 1) for index in range(len(steps))]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """A device's memory by address."""
    held: dict[int, Any] = {}

    def to_device(address: int, array: Any, stream: Any) -> None:
        held[address] = array.copy()

    def to_host(array: Any, address: int, stream: Any) -> None:
        array[:] = held[address]

    monkeypatch.setattr(staging, "copy_to_device", to_device)
    monkeypatch.setattr(staging, "copy_to_host", to_host)
    return held


def doubling(memory: dict[int, Any], stream: Stream, *, takes_s: float = 0.0) -> Any:
    """A network that doubles its input, staged."""

    def compute() -> None:
        time.sleep(takes_s)
        memory[2] = memory[1] * 2

    def passage(feeds: Feeds) -> staging.Passage:
        answers = {"logits": np.empty((2, 4), dtype=np.float32)}
        return staging.through({"images": 1, "logits": 2}, feeds, answers, compute, stream)  # type: ignore[arg-type]

    return staging.staged(stream, passage)  # type: ignore[arg-type]


def test_a_request_goes_in_is_computed_and_comes_back(memory: dict[int, Any]) -> None:
    stream = Stream()
    staged = doubling(memory, stream)
    assert (staged.run(FEEDS)["logits"] == 2).all()
    assert stream.waits == 1
    other = staged.run({"images": FEEDS["images"] * 3})
    assert (other["logits"] == 6).all()


def test_an_array_in_another_order_is_laid_out_before_it_is_copied(memory: dict[int, Any]) -> None:
    doubling(memory, Stream()).run({"images": np.ones((4, 2), dtype=np.float32).T})
    assert memory[1].flags.c_contiguous
    assert memory[1].shape == (2, 4)


def test_stages_have_the_devices_times_and_enqueueing_the_hosts(memory: dict[int, Any]) -> None:
    answers, stages = doubling(memory, Stream(), takes_s=0.01).timed(FEEDS)
    assert (answers["logits"] == 2).all()
    assert {name: stages[name] for name in ("h2d", "compute", "d2h")} == {
        "h2d": 1000,
        "compute": 2000,
        "d2h": 3000,
    }
    assert stages["enqueue"] >= 10_000_000


def test_pinned_copies_are_given_back_with_their_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[int] = []

    class Pinned:
        def __init__(self, array: Any) -> None:
            self.array = array.copy()

        def free(self) -> None:
            freed.append(self.array.size)

    monkeypatch.setattr(staging, "PinnedArray", Pinned)
    with ExitStack() as owned:
        found = staging.pinned(FEEDS, owned)
        assert np.array_equal(found["images"], FEEDS["images"])
        assert found["images"] is not FEEDS["images"]
        assert freed == []
    assert freed == [8]


def test_a_runner_on_the_host_computes_and_copies_nothing() -> None:
    with FakeRunner(INPUTS, INPUTS, latency=5_000_000) as runner:
        answers, stages = runner.stage(FEEDS).timed(FEEDS)
        assert stages == {"compute": 5_000_000}
        assert set(answers) == {"images"}
        with pytest.raises(UsageError, match="copies nothing to a device"):
            runner.pin(FEEDS)
        with pytest.raises(BbxError, match="missing"):
            runner.stage({})


def test_a_clock_that_waits_is_not_early_and_moves_on() -> None:
    with FakeRunner(INPUTS, INPUTS) as fake:
        fake.wait_until(7_000_000)
        fake.wait_until(3_000_000)
        assert fake.now() == 7_000_000

    class Real(FakeRunner):
        def now(self) -> int:
            return time.perf_counter_ns()

        wait_until = Runner.wait_until

    with Real(INPUTS, INPUTS) as runner:
        due = runner.now() + 3_000_000
        runner.wait_until(due)
        assert runner.now() >= due
