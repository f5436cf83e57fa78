"""Every option of an export, checked by running the artefact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from bbx.artifact import check_external_data, read_manifest
from bbx.exporter import onnx_io, to_onnx
from bbx.exporter.verify import TOLERANCES, distance
from bbx.images import photograph_batch
from bbx.models.build import build
from bbx.models.spec import ModelSpec
from bbx.runners.ort import OrtRunner

MODEL = "timm:test_resnet"


def export(bbx: Any, out: Path, *options: Any, model: str = MODEL) -> dict[str, Any]:
    answer = bbx(
        "export", model, "--image-size", 64, "--weights", "random", "--json", "-q", "-o", out, *options
    )
    assert answer.code == 0, answer.stderr
    document: dict[str, Any] = answer.document
    assert document["parity"]["verdict"] == "pass"
    return document


def agrees(document: dict[str, Any], batch: int, precision: Any = "fp32", **spec: Any) -> bool:
    """Whether ONNX Runtime gives, for photographs, what the module gives that is built here."""
    model = build(ModelSpec(MODEL, image_size=64, weights="random", **spec))
    pictures = photograph_batch(model.preprocess, batch)
    with torch.inference_mode():
        wanted = model.module(torch.from_numpy(pictures)).numpy()
    with OrtRunner(Path(document["artifact"])) as runner:
        [given] = runner.infer({runner.inputs[0].name: pictures.astype(runner.inputs[0].dtype)}).values()
    return distance(wanted, given).within(TOLERANCES[precision])


def test_bytes_with_normalisation_inside(bbx: Any, tmp_path: Path) -> None:
    document = export(bbx, tmp_path, "--input", "uint8")
    assert document["inputs"] == [{"name": "images", "dtype": "uint8", "shape": [None, 64, 64, 3]}]
    assert agrees(document, 3, input="uint8")
    manifest = read_manifest(Path(document["artifact"]))
    assert manifest is not None
    assert manifest.preprocess is not None
    assert (manifest.preprocess.dtype, manifest.preprocess.layout) == ("uint8", "NHWC")


def test_a_fixed_batch_and_an_opset(bbx: Any, tmp_path: Path) -> None:
    document = export(bbx, tmp_path, "--batch", 4, "--opset", 18)
    assert document["inputs"][0]["shape"] == [4, 3, 64, 64]
    assert document["outputs"][0]["shape"] == [4, 1000]
    assert {case["batch"] for case in document["parity"]["cases"]} == {4}
    assert document["opset"] == 18
    assert agrees(document, 4)


def test_a_dynamic_size(bbx: Any, tmp_path: Path) -> None:
    document = export(bbx, tmp_path, "--dynamic-size")
    assert document["inputs"][0]["shape"] == [None, 3, None, None]
    assert {case["input"] for case in document["parity"]["cases"]} >= {
        "photographs 96x128",
        "photographs 128x64",
    }
    with OrtRunner(Path(document["artifact"])) as runner:
        images = np.random.default_rng(0).standard_normal((2, 3, 96, 160), dtype=np.float32)
        assert runner.infer({"images": images})["logits"].shape == (2, 1000)


def test_a_model_of_one_size_has_no_dynamic_size(bbx: Any, in_nets_folder: Path, tmp_path: Path) -> None:
    answer = bbx("export", "sample_nets:vit", "--dynamic-size", "-q", "-o", tmp_path)
    assert answer.code == 1
    assert "Leave --dynamic-size out" in answer.error
    assert list(tmp_path.iterdir()) == []


def test_heads(bbx: Any, tmp_path: Path) -> None:
    features = export(bbx, tmp_path / "none", "--head", "none")
    assert features["outputs"][0]["name"] == "features"
    assert agrees(features, 2, head="none")
    mlp = export(bbx, tmp_path / "mlp", "--head", "mlp", "--num-classes", 7)
    assert mlp["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [None, 7]}]
    assert agrees(mlp, 2, head="mlp", num_classes=7)


@pytest.mark.parametrize("half_io", [False, True])
def test_half_precision_inside_and_outside(bbx: Any, tmp_path: Path, half_io: bool) -> None:
    document = export(bbx, tmp_path, "--fp16", *(["--half-io"] if half_io else []))
    dtype = "float16" if half_io else "float32"
    assert [spec["dtype"] for spec in (*document["inputs"], *document["outputs"])] == [dtype, dtype]
    assert document["precision"] == "fp16"
    weights = [
        tensor.data_type
        for tensor in onnx.load(document["artifact"]).graph.initializer
        if len(tensor.dims) == 4
    ]
    assert set(weights) == {onnx.TensorProto.FLOAT16}
    assert agrees(document, 2, "fp16")


def test_bfloat16_is_emulated_for_its_parity(bbx: Any, tmp_path: Path) -> None:
    document = export(bbx, tmp_path, "--bf16")
    graph = onnx.load(document["artifact"]).graph
    assert {t.data_type for t in graph.initializer if len(t.dims) == 4} == {onnx.TensorProto.BFLOAT16}
    assert 0 < max(case["outputs"]["logits"]["rel_l2"] for case in document["parity"]["cases"]) < 0.15


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_large_weights_go_to_a_file_that_the_manifest_knows(
    bbx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exporter: str
) -> None:
    monkeypatch.setattr(to_onnx, "PROTOBUF_LIMIT", 1000)
    monkeypatch.setattr(onnx_io, "PROTOBUF_LIMIT", 1000)
    # Files of other graphs in the folder one works in are none of this one's.
    monkeypatch.chdir(tmp_path)
    for name in ("timm-test_resnet.onnx", "timm-test_resnet.fp16.onnx", "model.onnx"):
        (tmp_path / f"{name}.data").write_bytes(b"somebody's")
    document = export(bbx, tmp_path, "--exporter", exporter, "--fp16")
    for path in (tmp_path / "timm-test_resnet.onnx", Path(document["artifact"])):
        [data] = check_external_data(path)
        manifest = read_manifest(path)
        assert manifest is not None
        assert [entry.file for entry in manifest.external_data] == [data.name] == [f"{path.name}.data"]
    assert agrees(document, 2, "fp16")
    assert export(bbx, tmp_path, "--exporter", exporter, "--fp16")["reused"] is True
    Path(f"{document['artifact']}.data").write_bytes(b"changed")
    assert export(bbx, tmp_path, "--exporter", exporter, "--fp16")["reused"] is False


def test_a_failed_graph_with_large_weights_keeps_its_own_data_file(
    bbx: Any, in_nets_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_onnx, "PROTOBUF_LIMIT", 1000)
    ask = ("export", "sample_nets:fickle", "-o", tmp_path)
    assert bbx(*ask).code == 0
    monkeypatch.setenv("FICKLE", "1")
    assert bbx(*ask).code == 3
    for name in ("sample_nets-fickle.onnx", "sample_nets-fickle.failed.onnx"):
        assert check_external_data(tmp_path / name) == [tmp_path / f"{name}.data"]
        with OrtRunner(tmp_path / name) as runner:
            assert runner.outputs[0].name == "logits"


def test_pt2(bbx: Any, tmp_path: Path) -> None:
    document = export(bbx, tmp_path, "-f", "pt2")
    assert document["format"] == "pt2"
    assert document["inputs"][0]["shape"] == [None, 3, 64, 64]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-f", "torchscript", "--opset", 18), "--opset belongs to --format onnx"),
        (("-f", "pt2", "--dynamic-size"), "--dynamic-size belongs to --format onnx"),
        (("-f", "torchscript", "--fp16"), "Type --format onnx"),
        (("--fp16", "--bf16"), "do not go together"),
        (("--half-io",), "--half-io belongs to --fp16 or --bf16"),
        (("--batch", 0), "--batch 0 is not a batch size"),
        (("--opset", 7), "--opset 7 cannot be written"),
        (("-o", "net.pt2"), "ends in .pt2, and the format asked for is onnx"),
    ],
)
def test_options_that_do_not_go_together(
    bbx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[Any, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = bbx("export", MODEL, "--weights", "random", "-q", *options)
    assert answer.code == 2
    assert said in answer.error
    assert list(tmp_path.rglob("*.onnx")) == []
