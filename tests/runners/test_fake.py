from __future__ import annotations

import numpy as np
import pytest

from bbx.errors import BbxError, UnavailableError, UsageError
from bbx.runners.fake import FakeRunner, Fault, VirtualClock, bimodal, drift, jitter
from bbx.types import TensorSpec

INPUTS = (TensorSpec("images", "float32", (None, 3, 4, 4)),)
OUTPUTS = (TensorSpec("logits", "float32", (None, 7)),)


def feeds(value: float = 1.0, batch: int = 2) -> dict[str, np.ndarray]:
    return {"images": np.full((batch, 3, 4, 4), value, np.float32)}


def test_samples_are_the_latency_model_and_move_the_clock() -> None:
    with FakeRunner(INPUTS, OUTPUTS, latency=[5, 7]) as runner:
        bound = runner.bind(feeds())
        assert bound.sample(5).tolist() == [5, 7, 5, 7, 5]
        assert bound.clock == "virtual"
        assert runner.now() == 29


@pytest.mark.parametrize(
    ("latency", "wanted"),
    [(3, [3, 3, 3, 3]), (bimodal(1, 9, every=2), [1, 9, 1, 9]), (drift(10, 2), [10, 12, 14, 16])],
)
def test_latency_models(latency: object, wanted: list[int]) -> None:
    with FakeRunner(INPUTS, OUTPUTS, latency=latency) as runner:  # type: ignore[arg-type]
        assert runner.bind(feeds()).sample(4).tolist() == wanted


def test_jitter_is_seeded_and_centred() -> None:
    values = [jitter(1000, 0.1, seed=3)(index) for index in range(4096)]
    assert values == [jitter(1000, 0.1, seed=3)(index) for index in range(4096)]
    assert abs(np.median(values) / 1000 - 1) < 0.02
    assert 0.08 < np.std(np.log(values)) < 0.12


def test_hours_pass_at_once_and_every_opening_is_the_same() -> None:
    runner = FakeRunner(INPUTS, OUTPUTS, latency=drift(3_600_000_000_000, 1))
    with runner:
        first = runner.bind(feeds()).sample(100)
    with runner:
        assert np.array_equal(runner.bind(feeds()).sample(100), first)


def test_faults_strike_where_they_were_put() -> None:
    faults = [Fault(1, stall_ns=50), Fault(2, error=UnavailableError("the device is gone"))]
    with FakeRunner(INPUTS, OUTPUTS, latency=10, faults=faults) as runner:
        bound = runner.bind(feeds())
        assert bound.sample(2).tolist() == [10, 60]
        with pytest.raises(UnavailableError, match="gone"):
            bound.step()
        assert bound.sample(1).tolist() == [10]
        assert runner.calls == 4


def test_answers_follow_the_feeds_unless_they_are_cached() -> None:
    with FakeRunner(INPUTS, OUTPUTS) as runner:
        assert runner.infer(feeds(2.0))["logits"].tolist() == [[2.0] * 7] * 2
        assert runner.infer(feeds(3.0, batch=1))["logits"].tolist() == [[3.0] * 7]
    with FakeRunner(INPUTS, OUTPUTS, cached=True) as runner:
        runner.infer(feeds(2.0))
        assert runner.infer(feeds(3.0))["logits"].tolist() == [[2.0] * 7] * 2


def test_respond_makes_the_outputs() -> None:
    with FakeRunner(INPUTS, OUTPUTS, respond=lambda given: {"logits": given["images"][:, 0, 0]}) as runner:
        assert runner.bind(feeds(4.0)).outputs()["logits"].shape == (2, 4)


def test_runners_measured_in_turns_share_a_clock() -> None:
    clock = VirtualClock()
    slow = FakeRunner(INPUTS, OUTPUTS, latency=20, clock=clock)
    fast = FakeRunner(INPUTS, OUTPUTS, latency=1, clock=clock)
    with slow, fast:
        slow.bind(feeds()).step()
        fast.bind(feeds()).step()
    assert slow.now() == fast.now() == 21


def test_it_has_the_manners_of_a_real_runner() -> None:
    runner = FakeRunner(INPUTS, OUTPUTS)
    with pytest.raises(UsageError, match="not open"):
        runner.infer(feeds())
    with runner, pytest.raises(BbxError, match="float64"):
        runner.infer({"images": np.zeros((1, 3, 4, 4))})
    with pytest.raises(UsageError, match="at least one"):
        FakeRunner(INPUTS, OUTPUTS, latency=[])
