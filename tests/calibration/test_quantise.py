"""From a graph and images to a quantised graph: recipes, errors, and the same bytes every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from bbx.calibration.quantise import Images, Quantised, Recipe, prepared_for, quantised_from_onnx
from bbx.errors import ExportError, UsageError
from tests.calibration import planted
from tests.calibration.graphs import graph, normal, operators


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


def test_scales_of_tensors_that_are_not_quantised_are_refused() -> None:
    with pytest.raises(UsageError, match=r"1 scales are for tensors that are not quantised here, .*'a9'"):
        _quantised(scales={"a9": 1.0})


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
