"""`bbx summary`: the document, the table, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

import bbx as package
from tests.conftest import Command


def test_the_document_of_a_preset(bbx: Command) -> None:
    document = bbx("summary", "resnet18", "--num-classes", "7", "--gpu", "h100-sxm", "--json").document
    assert document["schema"] == "bbx/1"
    assert (document["model"], document["kind"], document["precision"]) == ("resnet18", "module", "fp32")
    assert document["inputs"] == [{"name": "images", "dtype": "float32", "shape": [1, 3, 224, 224]}]
    assert document["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [1, 7]}]
    totals, layers = document["totals"], document["layers"]
    assert totals["parameters"] == sum(layer["parameters"] for layer in layers) == 11_176_512 + 7 * 513
    assert totals["flops"] == sum(layer["flops"] for layer in layers)
    assert totals["flops"] == 3_628_146_688 - 993 * 512 * 2
    assert totals["activation_bytes"] == sum(layer["activation_bytes"] for layer in layers)
    assert totals["moved_bytes"] == sum(layer["moved_bytes"] for layer in layers)
    assert totals["parameter_bytes"]["fp16"] == 2 * totals["parameters"]
    # conv1's output, and batch norm's of the same 3.2 MB.
    assert totals["peak_activation_bytes"] == 2 * 64 * 112 * 112 * 4
    stem = layers[0] if layers[0]["name"] == "conv1" else layers[1]
    assert stem["output_shape"] == [1, 64, 112, 112]
    assert stem["flops"] == 2 * 64 * 112 * 112 * 3 * 49


def test_the_roofline_adds_up(bbx: Command) -> None:
    command = ("summary", "resnet18", "--gpu", "H100 SXM", "--precision", "fp16", "--json")
    one = bbx(*command).document
    many = bbx(*command, "--batch", "64").document
    for document in (one, many):
        layers, roofline = document["layers"], document["roofline"]
        assert roofline["seconds_layer_by_layer"] == pytest.approx(
            sum(layer["seconds_at_least"] for layer in layers)
        )
        assert roofline["seconds_at_least"] <= roofline["seconds_layer_by_layer"]
        assert roofline["ridge"] == pytest.approx(989.4e12 / 3.35e12)
        assert "data sheet" in roofline["source"]
        for layer in layers:
            intensity = layer["flops"] / layer["moved_bytes"] if layer["moved_bytes"] else 0
            assert (layer["bound"] == "compute") == (intensity >= roofline["ridge"]) or not layer["flops"]
    # Weights are read once a batch, so one image is bound by memory and a large batch is not.
    assert (one["roofline"]["bound"], many["roofline"]["bound"]) == ("memory", "compute")


def test_the_table_has_the_layers_and_the_totals(bbx: Command) -> None:
    answer = bbx("summary", "resnet18", "--gpu", "t4", "--precision", "int8")
    assert answer.code == 0
    assert "layer4.1.conv2" in answer.stdout
    assert "11,689,512 (11,689,512 trainable)" in answer.stdout
    assert "3,628,146,688 (a multiply-add is two)" in answer.stdout
    assert "Tesla T4, int8: 130.0 TFLOP/s, 320 GB/s" in answer.stdout
    assert "layers without parameters or FLOPs" in answer.stdout


def test_models_of_every_origin(bbx: Command, in_nets_folder: Path) -> None:
    for model in ("sample_nets:tiny", "timm:convnext_atto", "torchvision:squeezenet1_1"):
        document = bbx("summary", model, "--image-size", "64", "--json").document
        assert document["totals"]["flops"] > 0
        assert document["inputs"][0]["shape"] == [1, 3, 64, 64]


def test_a_graph_is_read_and_costs_what_its_model_costs(
    bbx: Command, in_nets_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.onnx"
    assert bbx("export", "sample_nets:tiny", "-o", path, "-q").code == 0
    graph = bbx("summary", path, "--batch", "3", "--json").document
    module = bbx("summary", "sample_nets:tiny", "--batch", "3", "--json").document
    assert (graph["kind"], graph["unknown_shapes"]) == ("onnx", 0)
    assert graph["totals"]["flops"] == module["totals"]["flops"]
    assert graph["outputs"] == module["outputs"]
    assert "parameters   " in bbx("summary", path).stdout


def test_python_gives_the_same_document(bbx: Command, in_nets_folder: Path) -> None:
    assert package.summary("sample_nets:tiny") == bbx("summary", "sample_nets:tiny", "--json").document


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["resnet5O"], 1, "resnet50"),
        (["none.onnx"], 1, "no file none.onnx"),
        (["none.safetensors"], 1, "no checkpoint none.safetensors"),
        (["resnet18", "--gpu", "h100"], 2, "h100-pcie, h100-sxm"),
        (["resnet18", "--gpu", "t4", "--precision", "bf16"], 2, "Tesla T4 does not compute in bf16"),
        (["resnet18", "--precision", "fp12"], 2, "fp12"),
        (["resnet18", "--batch", "0"], 2, "at least 1"),
        (["resnet18", "--score-threshold", "0.5"], 2, "belongs to detectors"),
        (["vit_b_16", "--image-size", "30"], 1, "multiple of 16"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(bbx: Command, arguments: list[str], code: int, text: str) -> None:
    answer = bbx("summary", *arguments)
    assert answer.code == code
    assert text in answer.error


def test_options_of_a_model_do_not_apply_to_a_graph(bbx: Command, tmp_path: Path) -> None:
    answer = bbx("summary", tmp_path / "net.onnx", "--num-classes", "3")
    assert answer.code == 2
    assert "is a graph" in answer.error
