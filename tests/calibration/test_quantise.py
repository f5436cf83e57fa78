"""From a graph and images to a quantised graph: recipes, errors, and the same bytes every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from bbx import process
from bbx.calibration.quantise import Images, Quantised, Recipe, prepared_for, quantised_from_onnx
from bbx.errors import ExportError, UsageError
from tests.calibration import planted
from tests.calibration.graphs import graph, normal, operators, run


def _quantised(model: onnx.ModelProto | None = None, **recipe: Any) -> Quantised:
    return quantised_from_onnx(model or planted.chain(4), Recipe(**recipe), planted.chain_rows())


@pytest.mark.parametrize(
    "recipe", [{}, {"kind": "fp8"}, {"method": "entropy"}, {"method": "percentile:99.9"}]
)
def test_a_network_keeps_its_answers_and_the_same_again_is_the_same_bytes(recipe: dict[str, Any]) -> None:
    first, second = _quantised(**recipe), _quantised(**recipe)
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert first.error == second.error == first.judge.error(first.model)
    assert 0 < first.error < 0.2
    assert (first.methods, first.trials) == (second.methods, second.trials)


def test_the_graph_given_is_not_changed() -> None:
    model = planted.chain(4)
    before = model.SerializeToString()
    _quantised(model)
    assert model.SerializeToString() == before


def test_layers_are_kept_by_pattern_and_the_reason_is_the_option() -> None:
    quantised = _quantised(keep=("layer[12]", "layer3"), method="max")
    assert {node.name: node.reason for node in quantised.kept} == {
        "layer1": "asked for: --keep layer[12]",
        "layer2": "asked for: --keep layer[12]",
        "layer3": "asked for: --keep layer3",
    }
    assert list(quantised.scales) == ["a0"]
    assert list(quantised.weights) == ["w0"]


def test_a_pattern_that_matches_nothing_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="--keep layr1 matches no layer") as caught:
        _quantised(keep=("layr1",))
    assert "layer1" in caught.value.hint


def test_given_scales_are_used_and_said_to_be_given() -> None:
    scales = {"a1": 0.125}
    quantised = _quantised(scales=scales, method="max")
    assert quantised.scales["a1"] == 0.125
    assert quantised.methods == {"a0": "max", "a1": "given", "a2": "max", "a3": "max"}
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in quantised.model.graph.initializer}
    assert constants["a1_scale"] == np.float32(0.125)
    again = _quantised(scales=dict(quantised.scales), method="max")
    assert again.model.SerializeToString() == quantised.model.SerializeToString()


def test_where_every_scale_is_given_nothing_is_measured() -> None:
    first = _quantised()
    rows = planted.chain_rows()

    def unread() -> list[dict[str, Any]]:
        raise AssertionError("ranges were measured")

    recipe = Recipe(scales=dict(first.scales))
    again = quantised_from_onnx(planted.chain(4), recipe, Images(unread, rows.held_out))
    assert again.model.SerializeToString() == first.model.SerializeToString()


def test_scales_of_tensors_that_the_graph_does_not_have_are_refused() -> None:
    with pytest.raises(UsageError, match=r"1 scales are for tensors that the graph does not have, .*'a9'"):
        _quantised(scales={"a9": 1.0})


def test_scales_of_other_tensors_are_passed_over_with_a_warning() -> None:
    """TensorRT's caches name every tensor, and a layer may be kept that the scales were made with."""
    everything = {f"a{index}": 0.125 for index in range(5)}
    with process.collecting_warnings() as warnings:
        quantised = _quantised(scales=everything, method="max", keep=("layer2",))
    assert quantised.scales == dict.fromkeys(("a0", "a1", "a3"), 0.125)
    assert set(quantised.methods.values()) == {"given"}
    assert any("2 scales are for tensors that are not quantised here" in each for each in warnings)
    with pytest.raises(UsageError, match="None of the 1 scales is for a tensor that is quantised here"):
        _quantised(scales={"a4": 1.0})


def test_an_unknown_method_is_refused_before_any_work() -> None:
    with pytest.raises(UsageError, match="no calibration method 'best'"):
        Recipe(method="best")


def test_a_graph_that_is_quantised_already_is_refused() -> None:
    with pytest.raises(ExportError, match="quantised already: it has 12 Q/DQ nodes") as caught:
        _quantised(_quantised().model)
    assert "FP32 graph" in caught.value.hint


def test_a_graph_without_layers_is_refused_with_the_reasons() -> None:
    def feeds() -> list[dict[str, Any]]:
        return [{"x": normal(2, 4), "z": normal(4, 2)}]

    images = Images(feeds, feeds)
    plain = graph("(float[N,4] x, float[4,N] z) => (float[N,4] y) { y = Relu(x) }")
    with pytest.raises(ExportError, match="nothing to quantise in this graph: it has no layer with weights"):
        quantised_from_onnx(plain, Recipe(), images)
    product = graph("(float[N,4] x, float[4,N] z) => (float[N,N] y) { y = MatMul(x, z) }")
    with pytest.raises(ExportError, match=r"nothing to quantise .* a product of two activations"):
        quantised_from_onnx(product, Recipe(), images)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused(broken: float) -> None:
    weights = normal(16, 16)
    weights[3, 3] = broken
    model = graph("(float[N,16] a0) => (float[N,16] y) { y = MatMul(a0, w) }", {"w": weights})
    with pytest.raises(ExportError, match="The weight 'w' holds a NaN or an infinity"):
        _quantised(model)


def test_a_network_of_one_layer() -> None:
    quantised = _quantised(planted.chain(1))
    assert operators(quantised.model).count("QuantizeLinear") == 1
    assert quantised.error < 0.05


def test_the_opset_is_raised_to_what_the_type_needs() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }"
    old = graph(text, {"w": normal(4, 4)}, opset=11)
    assert prepared_for(old, "int8").opset_import[0].version == 13
    assert prepared_for(old, "fp8").opset_import[0].version == 19


def test_layers_put_back_keep_the_scales_of_the_others() -> None:
    quantised = _quantised(method="max")
    graph_of = quantised.keeping({"layer2": "a trial"})
    assert operators(graph_of).count("QuantizeLinear") == 3
    tensors = {each.name: each for each in graph_of.graph.initializer}
    assert tensors["w2"].data_type == TensorProto.FLOAT
    assert tensors["a1_scale"] == next(e for e in quantised.model.graph.initializer if e.name == "a1_scale")
    assert quantised.judge.error(graph_of) < quantised.error
    everything = quantised.keeping({f"layer{index}": "a trial" for index in range(4)})
    assert quantised.judge.error(everything) == pytest.approx(0, abs=1e-6)


def _two_convolutions(*, groups: int = 1) -> onnx.ModelProto:
    """A residual block whose shortcut is a convolution too, as where a stage of a ResNet begins."""
    text = f"""(float[N,3,8,8] x) => (float[N,4] y) {{
        [stem] a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w)
        s = Relu(a)
        [one] b = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(s, v)
        c = Relu(b)
        [two] d = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group={groups}>(c, u)
        [shortcut] e = Conv(s, p)
        f = Add(d, e)
        g = Relu(f)
        h = GlobalAveragePool(g)
        i = Flatten(h)
        [fc] y = MatMul(i, q) }}"""
    weights = {"w": normal(16, 3, 3, 3), "v": normal(16, 16, 3, 3, seed=1), "p": normal(16, 16, 1, 1, seed=2)}
    return graph(text, weights | {"u": normal(16, 16 // groups, 3, 3, seed=3), "q": normal(16, 4, seed=4)})


def _pictures() -> Images:
    rows = [{"x": normal(8, 3, 8, 8, seed=seed)} for seed in range(3)]
    return Images(lambda: rows[:2], lambda: rows[2:])


@pytest.mark.parametrize("layer", ["stem", "one", "two", "shortcut"])
def test_any_layer_of_a_sum_of_two_convolutions_can_be_put_back(layer: str) -> None:
    """With `two` kept, `shortcut` would take the sum in, and ask for a scale that `d` never had."""
    quantised = quantised_from_onnx(_two_convolutions(), Recipe(), _pictures())
    assert quantised.placement.residuals[0].activation == "e"
    put_back = quantised.keeping({layer: "a trial"})
    stored = {tensor.name for tensor in put_back.graph.initializer if tensor.data_type == TensorProto.INT8}
    weight = {"stem": "w", "one": "v", "two": "u", "shortcut": "p"}[layer]
    assert not any(name.startswith(weight) for name in stored)
    assert quantised.judge.error(put_back) < 2 * quantised.error


def test_a_depthwise_layer_of_a_sum_of_two_convolutions_is_decided_by_measurement() -> None:
    quantised = quantised_from_onnx(_two_convolutions(groups=16), Recipe(), _pictures())
    assert any(trial.what.startswith("depthwise layers") for trial in quantised.trials)
    assert 0 < quantised.error < 0.1


def test_what_reads_nothing_but_zeros_stays_in_floating_point() -> None:
    """Any scale for it would be one for no values, and cut the first one off."""
    text = (
        "(float[N,4] x, float[N,4] z) => (float[N,4] y) { a = MatMul(x, v) b = MatMul(z, w) y = Add(a, b) }"
    )
    model = graph(text, {"v": normal(4, 4), "w": normal(4, 4, seed=1)})
    rows = [{"x": normal(8, 4, seed=seed), "z": np.zeros((8, 4), np.float32)} for seed in range(3)]
    with process.collecting_warnings() as warnings:
        quantised = quantised_from_onnx(model, Recipe(), Images(lambda: rows[:2], lambda: rows[2:]))
    assert [node.reason for node in quantised.kept] == ["its input was zero on all calibration images"]
    assert [layer.activation for layer in quantised.placement.layers] == ["x"]
    assert any("1 tensors, such as 'z', were zero on all calibration images" in each for each in warnings)
    feeds = {"x": np.zeros((8, 4), np.float32), "z": normal(8, 4, seed=9)}
    np.testing.assert_allclose(run(quantised.model, feeds)[0], run(model, feeds)[0], rtol=1e-5)
    given = quantised_from_onnx(model, Recipe(scales={"z": 0.05}), Images(lambda: rows[:2], lambda: rows[2:]))
    assert (len(given.placement.layers), given.scales["z"]) == (2, 0.05)
