"""Reading the engine inspector's JSON, on documents in the form that NVIDIA's developer guide shows."""

from __future__ import annotations

from typing import Any

import pytest

from bbx.exporter.inspector import inspected_layers
from bbx.exporter.network_facts import LayerFacts, NetworkFacts
from bbx.exporter.precision import precision_proof


def _layer(kind: str, input_format: str, **more: Any) -> dict[str, Any]:
    return {
        "Name": kind,
        "LayerType": kind,
        "Inputs": [{"Name": "x", "Format/Datatype": input_format}],
        **more,
    }


def test_weights_decide_where_the_inspector_describes_them() -> None:
    layer = _layer(
        "CaskConvolution",
        "Thirty-two wide channel vectorized row major Int8 format.",
        Weights={"Type": "Int8", "Count": 131072},
    )
    assert inspected_layers({"Layers": [layer]}) == {"int8": {"layers": 1, "weight_bytes": 131072}}


@pytest.mark.parametrize(
    ("described", "dtype"),
    [
        ("Channel major FP16 format where channel % 8 == 0", "float16"),
        ("Half", "float16"),
        ("BFloat16", "bfloat16"),
        ("Row major linear FP32", "float32"),
        ("Float", "float32"),
        ("FP8", "float8_e4m3fn"),
    ],
)
def test_inputs_decide_where_there_are_no_weights(described: str, dtype: str) -> None:
    assert inspected_layers({"Layers": [_layer("gemm", described)]}) == {
        dtype: {"layers": 1, "weight_bytes": 0}
    }


def test_half_weights_count_two_bytes_each() -> None:
    layer = _layer("Convolution", "Half", Weights={"Type": "Half", "Count": 10})
    assert inspected_layers({"Layers": [layer, layer]}) == {"float16": {"layers": 2, "weight_bytes": 40}}


def test_names_only_is_no_evidence() -> None:
    assert inspected_layers({"Layers": ["conv1", "conv2"]}) == {}


def test_layers_that_do_not_compute_are_not_counted() -> None:
    assert inspected_layers({"Layers": [_layer("Reformat", "Half"), _layer("Shape", "Float")]}) == {}


def test_an_engine_that_ended_up_in_another_type_fails() -> None:
    network = NetworkFacts((), (), (LayerFacts("conv", "conv", "CONVOLUTION", "float16", 64),))
    agreed = {"float16": {"layers": 3, "weight_bytes": 0}, "float32": {"layers": 1, "weight_bytes": 0}}
    assert precision_proof("fp16", network, inspected=agreed).verdict == "pass"
    proof = precision_proof("fp16", network, inspected={"float32": {"layers": 4, "weight_bytes": 0}})
    assert proof.verdict == "fail"
    assert proof.reasons == ("the engine inspector finds 0 of 4 compute layers in float16",)
