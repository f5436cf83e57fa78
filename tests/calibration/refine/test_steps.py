"""Refinement of whole networks: it helps on images that it did not see, or it is undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bbx.calibration.placement import place
from bbx.calibration.quantise import Images, Quantised, Recipe
from bbx.calibration.refine import steps
from bbx.calibration.refine.steps import Gain, refined
from bbx.calibration.to_qdq import qdq_from_onnx
from bbx.errors import BbxError, UsageError
from bbx.process import Event, listening

PLAIN = Recipe(method="mse")
Quantise = Callable[..., Quantised]
Outcome = tuple[Quantised, Quantised, tuple[Gain, ...], list[Any]]


@pytest.fixture(scope="module")
def outcome(network: Any, quantise: Quantise) -> Outcome:
    """All steps: the start, the end, the gains, and what was shown meanwhile."""
    start = quantise()
    shown: list[Any] = []
    with listening(shown.append):
        return start, *refined(start, PLAIN, network.images), shown


def test_it_helps_on_images_that_it_did_not_see(outcome: Outcome) -> None:
    start, found, gains, shown = outcome
    assert [gain.step for gain in gains] == ["equalise", "rounding", "bias"]
    assert gains[0].kept
    assert gains[0].rescaled
    assert gains[1].kept
    assert gains[1].after < 0.8 * gains[0].before
    errors = [start.error]
    for gain in gains:
        assert gain.before == pytest.approx(errors[-1])
        errors.append(gain.after if gain.kept else gain.before)
    assert found.error == errors[-1]
    assert start.judge.error(found.model) == pytest.approx(found.error)
    stages = {event.stage for event in shown if isinstance(event, Event)}
    assert {"refine rounding", "refine bias"} <= stages


def test_a_bias_takes_up_the_mean_error(network: Any, quantise: Quantise) -> None:
    """Of weights that are all rounded towards zero, which makes every output a little smaller."""
    start = quantise()
    short = {
        name: replace(weight, values=np.sign(weight.values) * (np.abs(weight.values) * 31 // 32))
        for name, weight in start.weights.items()
    }
    graph = qdq_from_onnx(start.source, start.placement, start.scales, short, "int8")
    start = replace(start, model=graph, weights=short, error=start.judge.error(graph))
    _, gains = refined(start, PLAIN, network.images, ["bias"])
    assert gains[0].kept
    assert gains[0].after < 0.8 * gains[0].before


def test_every_layer_tells_what_a_step_did(network: Any, outcome: Outcome) -> None:
    for gain in outcome[2][1:]:
        assert [layer.name for layer in gain.layers] == [layer.name for layer in network.placement.layers]
        for layer in gain.layers:
            assert layer.after is not None
            assert layer.before is not None
            assert layer.after <= layer.before
            assert not layer.left


def test_only_weights_and_biases_change(network: Any, quantise: Quantise) -> None:
    start = quantise()
    found, _ = refined(start, PLAIN, network.images, ["rounding", "bias"])
    assert (found.scales, found.placement, found.kind) == (start.scales, start.placement, start.kind)
    assert place(found.source).layers == start.placement.layers
    for name, weight in found.weights.items():
        np.testing.assert_array_equal(weight.scale, start.weights[name].scale)
        assert weight.values.dtype == np.int8
        assert np.abs(weight.values.astype(int)).max() <= 127


def test_equal_inputs_give_equal_bytes(network: Any, quantise: Quantise, outcome: Outcome) -> None:
    given = network.model.SerializeToString()
    again, _ = refined(quantise(), PLAIN, network.images)
    assert again.model.SerializeToString() == outcome[1].model.SerializeToString()
    assert network.model.SerializeToString() == given


@pytest.mark.parametrize("step", ["equalise", "rounding", "bias"])
def test_a_step_alone(network: Any, quantise: Quantise, step: steps.Step) -> None:
    start = quantise()
    found, gains = refined(start, PLAIN, network.images, [step])
    assert [gain.step for gain in gains] == [step]
    rounded = any(
        not np.array_equal(found.weights[name].values, start.weights[name].values) for name in start.weights
    )
    assert rounded == (step != "bias")
    if step == "rounding":
        assert found.source.SerializeToString() == start.source.SerializeToString()


def test_fp8_gains_too(network: Any, quantise: Quantise) -> None:
    recipe = Recipe(kind="fp8", method="mse")
    found, gains = refined(quantise(recipe=recipe), recipe, network.images, ["rounding"])
    assert gains[0].after < 0.9 * gains[0].before
    assert {weight.values.dtype.name for weight in found.weights.values()} == {"float8_e4m3fn"}


def test_a_step_that_does_not_help_is_undone(network: Any, quantise: Quantise) -> None:
    """Calibration images that have nothing to do with those that are judged."""

    def dark() -> Any:
        yield {"images": np.full((8, 3, 32, 32), -30, np.float32)}

    start = quantise()
    found, gains = refined(start, PLAIN, Images(dark, network.images.held_out), ["bias"])
    assert not gains[0].kept
    assert gains[0].after > gains[0].before
    assert found.model.SerializeToString() == start.model.SerializeToString()
    assert found.error == start.error


def _never() -> Any:
    raise AssertionError


def test_an_unknown_step_is_named_before_any_work(quantise: Quantise) -> None:
    with pytest.raises(UsageError, match=r"no refinement 'polish'.*rounding, bias"):
        refined(quantise(), PLAIN, Images(_never, _never), ["rounding", "polish"])  # type: ignore[list-item]


def test_given_scales_forbid_to_rescale_channels(quantise: Quantise) -> None:
    recipe = Recipe(method="mse", scales={"stem": 0.1})
    with pytest.raises(UsageError, match=r"cannot be rescaled.*--refine rounding,bias"):
        refined(quantise(recipe=recipe), recipe, Images(_never, _never))


def test_no_image_is_an_error(network: Any, quantise: Quantise) -> None:
    for step in steps.STEPS:
        with pytest.raises(BbxError, match="at least one image"):
            refined(quantise(), PLAIN, Images(lambda: iter(()), network.images.held_out), [step])


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
    monkeypatch.setattr(steps, "WIDEST", 2)
    start = quantise(_tied())
    found, gains = refined(start, PLAIN, network.images)
    assert not any(gain.kept for gain in gains[:2])  # nothing changed, so nothing was gained
    assert gains[0].rescaled == ()
    assert [[layer.left for layer in gain.layers] for gain in gains] == [
        [],
        [
            "2 layers share its weight",
            "2 layers share its weight",
            "it does not multiply its input by a matrix",
            "each of its outputs has 3 inputs, more than 2",
        ],
        ["", "", "it does not multiply its input by a matrix", "there is no place for a bias"],
    ]
    for name, weight in found.weights.items():
        np.testing.assert_array_equal(weight.values, start.weights[name].values)


def test_layers_kept_in_floating_point_stay_so(network: Any, quantise: Quantise) -> None:
    recipe = Recipe(method="mse", keep=("*deep",))
    found, gains = refined(quantise(recipe=recipe), recipe, network.images)
    assert gains[1].kept
    assert {layer.name for layer in gains[1].layers}.isdisjoint({"make_one_deep", "make_two_deep"})
    read = {node.input[1] for node in found.model.graph.node if node.name.endswith("deep")}
    assert read == {"one_deep_w", "two_deep_w"}
