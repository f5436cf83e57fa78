"""Noise of a known size in some tensors of a graph, to see what it changes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from bbx.exporter.control import stirred
from tests.calibration.graphs import graph, normal, run

ROWS = normal(200, 50)


@pytest.fixture(scope="module")
def plain() -> ModelProto:
    text = "(float[N,50] x) => (float[N,40] h, float[N,40] y) { h = MatMul(x, w) \n y = Relu(h) }"
    return graph(text, {"w": normal(50, 40, seed=1)})


def _apart(want: np.ndarray, got: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("amount", [1e-3, 0.1])
def test_the_noise_has_the_size_that_was_asked_for(plain: ModelProto, amount: float) -> None:
    want = run(plain, {"x": ROWS})
    got = run(stirred(plain, {"h": amount}, seed=0), {"x": ROWS})
    assert _apart(want[0], got[0]) == pytest.approx(amount, rel=0.05)
    np.testing.assert_array_equal(got[1], np.maximum(got[0], 0), err_msg="what follows reads the noisy one")


def test_the_same_seed_gives_the_same_noise_and_another_seed_another(plain: ModelProto) -> None:
    first, again, other = (run(stirred(plain, {"h": 0.1}, seed=s), {"x": ROWS})[0] for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert _apart(first, other) > 0.05


def test_each_tensor_has_its_own_noise_and_the_graph_stays_as_it_was(plain: ModelProto) -> None:
    before = plain.SerializeToString()
    both = stirred(plain, {"h": 0.1, "y": 0.1}, seed=0)
    assert plain.SerializeToString() == before
    h, y = run(both, {"x": ROWS})
    positive = h > 0.5
    first = h - run(plain, {"x": ROWS})[0]
    assert abs(np.corrcoef(first[positive], (y - h)[positive])[0, 1]) < 0.1


def test_a_tensor_that_no_node_gives_cannot_be_stirred(plain: ModelProto) -> None:
    with pytest.raises(KeyError):
        stirred(plain, {"x": 0.1}, seed=0)
