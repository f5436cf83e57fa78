"""Refinement of whole networks: it helps on images that it did not see, or it is undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bbx.calibration.placement import place
from bbx.calibration.refine import steps
from bbx.calibration.refine.steps import Gain, refined
from bbx.calibration.refine.walk import Change, Left, Quantisation, Visit, walked
from bbx.errors import BbxError, UsageError
from bbx.process import Event, listening

Quantise = Callable[..., Quantisation]
Outcome = tuple[Quantisation, Quantisation, tuple[Gain, ...], list[Any]]


@pytest.fixture(scope="module")
def outcome(network: Any, quantise: Quantise, judge: Any) -> Outcome:
    """Both steps: the start, the end, the gains, and what was shown meanwhile."""
    start = quantise()
    shown: list[Any] = []
    with listening(shown.append):
        return start, *refined(start, network.fit, judge), shown


def test_it_helps_on_images_that_it_did_not_see(outcome: Outcome, judge: Any) -> None:
    start, found, gains, shown = outcome
    assert [gain.step for gain in gains] == ["rounding", "bias"]
    assert gains[0].kept
    assert gains[0].after < 0.8 * gains[0].before
    assert gains[1].before == pytest.approx(gains[0].after)
    assert judge.error(start.graph()) == pytest.approx(gains[0].before)
    reached = gains[1].after if gains[1].kept else gains[1].before
    assert judge.error(found.graph()) == pytest.approx(reached)
    assert {event.stage for event in shown if isinstance(event, Event)} == {"refine rounding", "refine bias"}


def _short(start: Quantisation) -> Quantisation:
    """The same with all weights a little smaller, and rounded towards zero."""

    def less(values: NDArray[np.generic]) -> NDArray[np.int8]:
        return np.trunc(values.astype(np.float32) * 31 / 32).astype(np.int8)

    weights = {name: replace(each, values=less(each.values)) for name, each in start.weights.items()}
    return replace(start, weights=weights)


def test_a_bias_takes_up_the_mean_error(network: Any, quantise: Quantise, judge: Any) -> None:
    """Which is there where every output is a little smaller."""
    _, gains = refined(_short(quantise()), network.fit, judge, steps=["bias"])
    assert gains[0].kept
    assert gains[0].after < 0.8 * gains[0].before


def test_outputs_have_their_spread_again(network: Any, quantise: Quantise, judge: Any) -> None:
    """Every second channel is a fifth too small, as if its largest weights had been cut off."""
    start = quantise()
    small = {
        name: replace(weight, scale=weight.scale * np.where(np.arange(weight.scale.size) % 2, 1.0, 0.8))
        for name, weight in start.weights.items()
    }
    small = {name: replace(weight, scale=weight.scale.astype(np.float32)) for name, weight in small.items()}
    found, gains = refined(replace(start, weights=small), network.fit, judge, steps=["bias"])
    assert gains[0].kept
    assert gains[0].after < 0.3 * gains[0].before
    for name, weight in found.weights.items():
        np.testing.assert_allclose(weight.scale, start.weights[name].scale, rtol=0.06)
        np.testing.assert_array_equal(weight.values, start.weights[name].values)
    assert all(layer.after is not None and layer.after < 1e-9 for layer in gains[0].layers)


def test_a_scale_moves_only_so_far(network: Any, quantise: Quantise, judge: Any) -> None:
    start = quantise()
    tiny = {
        name: replace(weight, scale=weight.scale / np.float32(100)) for name, weight in start.weights.items()
    }
    found, gains = refined(replace(start, weights=tiny), network.fit, judge, steps=["bias"])
    stem = found.placement.layers[0].weight
    assert gains[0].kept
    np.testing.assert_allclose(found.weights[stem].scale, 2 * tiny[stem].scale, rtol=1e-6)
    assert gains[0].layers[0].after is not None
    assert gains[0].layers[0].after > 0.5


def test_every_layer_tells_what_a_step_did(network: Any, outcome: Outcome) -> None:
    for gain in outcome[2]:
        assert [layer.name for layer in gain.layers] == [layer.name for layer in network.placement.layers]
        for layer in gain.layers:
            assert layer.after is not None
            assert layer.before is not None
            assert layer.after <= layer.before
            assert not layer.left


def test_rounding_moves_nothing_but_what_is_stored(network: Any, quantise: Quantise, judge: Any) -> None:
    start = quantise()
    found, _ = refined(start, network.fit, judge, steps=["rounding"])
    assert start.model is network.model
    assert (found.scales, found.placement) == (start.scales, start.placement)
    assert place(found.model).layers == start.placement.layers
    for name, weight in found.weights.items():
        np.testing.assert_array_equal(weight.scale, start.weights[name].scale)
        assert weight.values.dtype == np.int8
        assert np.abs(weight.values.astype(int)).max() <= 127


def test_equal_inputs_give_equal_bytes(
    network: Any, quantise: Quantise, judge: Any, outcome: Outcome
) -> None:
    given = network.model.SerializeToString()
    again, _ = refined(quantise(), network.fit, judge)
    assert again.graph().SerializeToString() == outcome[1].graph().SerializeToString()
    assert network.model.SerializeToString() == given


@pytest.mark.parametrize("step", ["rounding", "bias"])
def test_a_step_alone(network: Any, quantise: Quantise, judge: Any, step: steps.Step) -> None:
    start = quantise()
    found, gains = refined(start, network.fit, judge, steps=[step])
    assert [gain.step for gain in gains] == [step]
    moved = any(
        not np.array_equal(found.weights[name].values, start.weights[name].values) for name in start.weights
    )
    assert moved == (step == "rounding")
    if step == "rounding":
        assert found.model.SerializeToString() == start.model.SerializeToString()


def test_fp8_gains_too(network: Any, quantise: Quantise, judge: Any) -> None:
    found, gains = refined(quantise(kind="fp8"), network.fit, judge)
    assert gains[0].after < 0.9 * gains[0].before
    assert {weight.values.dtype.name for weight in found.weights.values()} == {"float8_e4m3fn"}


def test_a_step_that_does_not_help_is_undone(network: Any, quantise: Quantise, judge: Any) -> None:
    """Calibration images that have nothing to do with those that are judged."""

    def dark() -> Any:
        yield {"images": np.full((8, 3, 32, 32), -30, np.float32)}

    start = quantise()
    found, gains = refined(start, dark, judge, steps=["bias"])
    assert not gains[0].kept
    assert gains[0].after > gains[0].before
    assert found is start


@pytest.mark.parametrize(
    ("after", "kept"), [(0.97, True), (0.99, False), (1.0, False), (float("nan"), False)]
)
def test_a_step_that_saves_less_than_a_fiftieth_is_not_kept(after: float, kept: bool) -> None:
    assert Gain("bias", 1.0, after).kept == kept


def test_an_unknown_step_is_named_before_any_work(quantise: Quantise, judge: Any) -> None:
    def never() -> Any:
        raise AssertionError

    with pytest.raises(UsageError, match=r"no refinement 'polish'.*rounding, bias"):
        refined(quantise(), never, judge, steps=["rounding", "polish"])  # type: ignore[list-item]


def test_no_image_is_an_error(quantise: Quantise, judge: Any) -> None:
    with pytest.raises(BbxError, match="at least one image"):
        refined(quantise(), lambda: iter(()), judge)


def _tied() -> ModelProto:
    """A weight that two layers share, a transposed convolution, a product whose bias the graph computes."""
    random = np.random.default_rng(8)
    shapes = {"w": (3, 3, 3, 3), "t": (3, 3, 2, 2), "m": (3, 4)}
    tensors = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], name="a", pads=[1] * 4),
        helper.make_node("Conv", ["a", "w"], ["b"], name="b", pads=[1] * 4),
        helper.make_node("ConvTranspose", ["b", "t"], ["c"], name="c"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "m"], ["y"], name="y"),
    ]
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_what_cannot_be_refined_is_left_and_says_why(
    network: Any, quantise: Quantise, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bbx.calibration.judged import judge_by

    monkeypatch.setattr(steps, "WIDEST", 2)
    start = quantise(_tied())
    found, gains = refined(start, network.fit, judge_by(start.model, network.held_out))
    left = [[layer.left for layer in gain.layers] for gain in gains]
    assert left == [
        [
            "2 layers share its weight",
            "2 layers share its weight",
            "it does not multiply its input by a matrix",
            "each of its outputs has 3 inputs, more than 2",
        ],
        ["", "", "it does not multiply its input by a matrix", "there is no place for a bias"],
    ]
    assert not gains[0].kept  # nothing changed, so nothing was gained
    for name, weight in found.weights.items():
        np.testing.assert_array_equal(weight.values, start.weights[name].values)


def test_a_weight_that_layers_share_keeps_its_scale(
    network: Any, quantise: Quantise, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them would multiply it; their biases are their own."""
    from bbx.calibration.judged import judge_by

    monkeypatch.setattr(steps, "WORTH", -10.0)  # whatever comes of it is kept
    start = _short(quantise(_tied()))
    judge = judge_by(start.model, network.held_out)
    found, gains = refined(start, network.fit, judge, steps=["bias"])
    assert gains[0].kept
    np.testing.assert_array_equal(found.weights["w"].scale, start.weights["w"].scale)
    assert len(found.model.graph.initializer) == len(start.model.graph.initializer) + 2


def test_a_layer_without_a_place_for_its_bias_keeps_its_weight(network: Any, quantise: Quantise) -> None:
    def doubled(visit: Visit) -> Change:
        weight = replace(visit.weight, scale=2 * visit.weight.scale)
        return Change(1.0, 0.5, weight=weight, bias=np.zeros(visit.exact.shape[0] * visit.exact.shape[1]))

    start = quantise(_tied())
    found, happened = walked(start, network.fit, doubled, "a test")
    assert happened[-1][1] == Left("there is no place for a bias")
    assert found.weights["m"] is start.weights["m"]
    np.testing.assert_array_equal(
        found.weights["w"].scale, 4 * start.weights["w"].scale
    )  # two layers have it


def test_layers_kept_in_floating_point_stay_so(network: Any, quantise: Quantise, judge: Any) -> None:
    start = quantise()
    keep = {layer.name: "asked for" for layer in start.placement.layers if layer.role == "depthwise"}
    placement = place(start.model, keep=keep)
    weights = {layer.weight: start.weights[layer.weight] for layer in placement.layers}
    found, gains = refined(replace(start, placement=placement, weights=weights), network.fit, judge)
    assert gains[0].kept
    assert {layer.name for layer in gains[0].layers}.isdisjoint(keep)
    kinds = {node.input[1] for node in found.graph().graph.node if node.name in keep}
    assert kinds == {"one_deep_w", "two_deep_w"}
