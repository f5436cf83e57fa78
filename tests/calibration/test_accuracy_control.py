"""As few layers in floating point as the budget asks for, and honesty where it cannot be kept."""

from __future__ import annotations

import pytest
from onnx import ModelProto, TensorProto

from bbx.calibration.accuracy import Accuracy
from bbx.calibration.accuracy_control import Controlled, controlled
from bbx.calibration.quantise import Quantised, Recipe, quantised_from_onnx
from tests.calibration import planted

LAYERS = 8


@pytest.fixture(scope="module")
def weak() -> Quantised:
    """A chain whose sixth layer spoils everything."""
    return quantised_from_onnx(planted.chain(LAYERS, sensitive=5), Recipe(method="max"), planted.chain_rows())


def _floating(model: ModelProto) -> int:
    """Layers whose weight is in floating point."""
    return sum(
        tensor.name.startswith("w") and tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2
        for tensor in model.graph.initializer
    )


class _Counting:
    """A measure that is one less what the judge finds, or any other, and says how often it was taken."""

    def __init__(self, quantised: Quantised, needed: int | None = None) -> None:
        self.calls = 0
        self._quantised = quantised
        self._needed = needed
        self.accuracy = Accuracy("agreement", 48, 1.0, self._score)

    def _score(self, model: ModelProto) -> float:
        self.calls += 1
        if self._needed is None:
            return 1.0 - self._quantised.judge.error(model)
        return 0.9 if _floating(model) >= self._needed else 0.5 + 0.01 * _floating(model)


def _control(quantised: Quantised, max_drop: float, needed: int | None = None) -> tuple[Controlled, int]:
    counting = _Counting(quantised, needed)
    found = controlled(quantised, counting.accuracy, max_drop)
    return found, counting.calls


def test_the_planted_layer_alone_is_put_back(weak: Quantised) -> None:
    found, calls = _control(weak, 0.1)
    assert found.met
    assert [layer.name for layer in found.put_back] == ["layer5"]
    (layer,) = found.put_back
    assert layer.cost_bytes == 3 * 16 * 16
    assert 0.5 < layer.bought < 1
    assert found.drop == pytest.approx(weak.judge.error(found.model))
    assert found.before == pytest.approx(weak.error)
    assert found.before > 0.1 >= found.drop
    assert _floating(found.model) == 1
    assert found.evaluations == calls == 2


def test_a_budget_that_is_kept_already_costs_one_evaluation_and_no_layer(weak: Quantised) -> None:
    found, calls = _control(weak, 2.0)
    assert (found.met, found.put_back, found.evaluations, calls) == (True, (), 1, 1)
    assert found.model is weak.model


@pytest.mark.parametrize("needed", range(1, LAYERS))
def test_the_fewest_layers_that_keep_the_budget_are_found(weak: Quantised, needed: int) -> None:
    found, calls = _control(weak, 0.15, needed)
    assert found.met
    assert len(found.put_back) == _floating(found.model) == needed
    assert found.drop == pytest.approx(0.1)
    assert found.evaluations == calls <= 7
    bought = [layer.bought for layer in found.put_back]
    assert bought == sorted(bought, reverse=True)


def test_a_budget_that_cannot_be_kept_gives_the_best_and_says_so(weak: Quantised) -> None:
    found, calls = _control(weak, 0.05, needed=5)
    assert not found.met
    assert found.drop == pytest.approx(0.1)
    assert found.drop < found.before
    assert len(found.put_back) >= 5
    assert found.evaluations == calls


def test_a_measure_that_nothing_improves_leaves_the_graph_alone(weak: Quantised) -> None:
    accuracy = Accuracy("agreement", 1, 1.0, lambda _: 0.5)
    found = controlled(weak, accuracy, 0.1)
    assert (found.met, found.put_back, found.drop) == (False, (), 0.5)
    assert found.model is weak.model


def test_one_layer_at_least_stays_quantised(weak: Quantised) -> None:
    found, _ = _control(weak, 0.0, needed=LAYERS)
    assert not found.met
    assert len(found.put_back) == LAYERS - 1


def test_a_network_of_one_layer_cannot_be_put_back() -> None:
    only = quantised_from_onnx(planted.chain(1), Recipe(method="max"), planted.chain_rows())
    found, _ = _control(only, 0.0)
    assert (found.met, found.put_back) == (False, ())
    assert found.model is only.model
