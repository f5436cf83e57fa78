"""Detectors and segmenters through the whole road: documents, manifests, formats, precisions, backbones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import bbx as api
from bbx.artifact import Manifest, read_manifest
from bbx.exporter.onnx_graph import tensor_infos
from bbx.exporter.onnx_options import FLOAT32_MARK
from bbx.images import PHOTOGRAPHS, decode
from bbx.outputs import Detected, Segmented
from bbx.runners.ort import OrtRunner

# The lightest of each kind: with proposals, without, and a segmenter.
RCNN = "fasterrcnn_mobilenet_v3_large_320_fpn"
FCOS = "fcos_r50_fpn"
SEGMENTER = "lraspp_mobilenet_v3_large"
SIZES = {RCNN: "192x256"}
"""Where its one map is no coarser than some boxes: else many score alike, and which one is kept is chance."""
SIZE = "64x96"
FEW = ("--candidates", 300)
"""Detections to choose from; the suppression of a static graph on a CPU takes time by their square."""
DETECTIONS = {"boxes", "scores", "labels", "num_detections", "saturated"}
PICTURES = [PHOTOGRAPHS / name for name in ("chelsea.jpg", "coffee.jpg")]


def export(bbx: Any, model: str, out: Path, *options: Any, verdict: str = "pass") -> dict[str, Any]:
    """Export with seeded weights at a small size; the parity must hold."""
    size = ("--image-size", SIZES.get(model, SIZE))
    answer = bbx("export", model, *size, "--weights", "random", "--json", "-q", "-o", out, *options)
    assert answer.code == 0, answer.stderr
    document: dict[str, Any] = answer.document
    assert document["parity"]["verdict"] in ("pass", verdict), document["parity"]["reasons"]
    return document


def manifest_of(document: dict[str, Any]) -> Manifest:
    manifest = read_manifest(Path(document["artifact"]))
    assert manifest is not None
    return manifest


def on_pictures(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """What ONNX Runtime gives for two photographs, and what that says about them, by the manifest alone."""
    images = [decode(picture) for picture in PICTURES]
    with OrtRunner(path) as runner:
        name = runner.inputs[0].name
        outputs = {
            name: np.array(value)
            for name, value in runner.infer({name: api.preprocess(images, path)}).items()
        }
    return outputs, api.postprocess(outputs, path, [image.size for image in images])


# --- documents, manifests and what they are good for ------------------------------------------------


def check_detections(case: dict[str, Any]) -> None:
    assert set(case["outputs"]) == DETECTIONS
    assert all(set(distance) == {"max_abs", "rel_l2", "cosine"} for distance in case["outputs"].values())
    counts = case["detections"]
    assert counts["reference"] == counts["matched"] > 0
    assert (counts["missing"], counts["extra"]) == (0, 0)
    assert counts["worst_iou"] >= 0.99
    assert counts["worst_score"] <= 1e-3


def test_a_detectors_document_and_manifest(bbx: Any, tmp_path: Path) -> None:
    options = ("--score-threshold", 0.1, "--iou-threshold", 0.4, "--candidates", 300, "--detections", 50)
    document = export(bbx, RCNN, tmp_path, *options)
    assert "torchvision" in document["parity"]["against"]
    for case in document["parity"]["cases"]:
        check_detections(case)
    assert {case["batch"] for case in document["parity"]["cases"]} == {1, 2, 3}
    assert {spec["name"]: spec["shape"] for spec in document["outputs"]} == {
        "boxes": [None, 50, 4],
        "scores": [None, 50],
        "labels": [None, 50],
        "num_detections": [None],
        "saturated": [None],
    }
    manifest = manifest_of(document)
    assert manifest == Manifest.model_validate_json(manifest.to_json())
    how, means = manifest.preprocess, manifest.postprocess
    assert how is not None
    assert (how.height, how.width, how.fit) == (192, 256, "letterbox")
    assert means is not None
    assert (means.task, means.num_classes, means.lowering) == ("detection", 91, "onnx")
    assert (means.score_threshold, means.iou_threshold) == (0.1, 0.4)
    assert (means.candidates, means.detections) == (300, 50)
    kinds = {node.op_type for node in onnx.load(document["artifact"]).graph.node}
    assert {"RoiAlign", "NonMaxSuppression"} <= kinds


def test_a_detector_tells_where_things_are_in_the_photographs(bbx: Any, tmp_path: Path) -> None:
    document = export(bbx, RCNN, tmp_path, "--lowering", "static", "--detections", 10, *FEW)
    outputs, found = on_pictures(Path(document["artifact"]))
    assert not outputs["saturated"].any()
    for picture, each, count in zip(PICTURES, found, outputs["num_detections"], strict=True):
        width, height = decode(picture).size
        assert isinstance(each, Detected)
        assert len(each.boxes) == len(each.scores) == len(each.labels) == count > 0
        assert (each.boxes >= 0).all()
        assert (each.boxes[:, 2:] <= [width, height]).all()
        assert each.boxes.max() > 256  # in the photograph's pixels, and not the network's
        assert not each.saturated


def test_more_boxes_than_candidates_are_told(bbx: Any, tmp_path: Path) -> None:
    answer = bbx(
        *("export", FCOS, "--image-size", SIZE, "--weights", "random", "--candidates", 5, "--json", "-q"),
        *("-o", tmp_path, "--lowering", "static"),
    )
    # Fewer candidates than torchvision looks at: parity must notice, and the graph says so itself.
    assert answer.code == 3, answer.stderr
    assert answer.document["parity"]["verdict"] == "fail"
    [path] = tmp_path.glob("*.failed.onnx")
    outputs, found = on_pictures(path)
    assert outputs["saturated"].all()
    assert all(each.saturated and len(each.boxes) <= 5 for each in found)


@pytest.mark.parametrize("model", [SEGMENTER, "unet_resnet34"])
def test_a_segmenter_gives_labels_of_the_photographs_size(bbx: Any, tmp_path: Path, model: str) -> None:
    document = export(bbx, model, tmp_path, "--argmax", "--num-classes", 5)
    assert document["outputs"] == [{"name": "labels", "dtype": "uint8", "shape": [None, 64, 96]}]
    outputs, found = on_pictures(Path(document["artifact"]))
    assert outputs["labels"].dtype == np.uint8
    assert len(np.unique(outputs["labels"])) > 1
    for picture, each in zip(PICTURES, found, strict=True):
        assert isinstance(each, Segmented)
        assert each.labels.shape == decode(picture).size[::-1]


# --- formats ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
@pytest.mark.parametrize("model", [FCOS, SEGMENTER])
def test_programs_of_torch(bbx: Any, tmp_path: Path, model: str, format: str) -> None:
    document = export(bbx, model, tmp_path, "-f", format)
    manifest = manifest_of(document)
    assert manifest.postprocess is not None
    assert manifest.postprocess.lowering == ("static" if model == FCOS else None)


@pytest.mark.parametrize("model", [FCOS, SEGMENTER])
def test_bytes_with_normalisation_inside(bbx: Any, tmp_path: Path, model: str) -> None:
    document = export(bbx, model, tmp_path, "--input", "uint8")
    assert document["inputs"] == [{"name": "images", "dtype": "uint8", "shape": [None, 64, 96, 3]}]


# --- precisions -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for both precisions: the FP32 graph that they are made from is exported once."""
    return tmp_path_factory.mktemp("exports")


@pytest.mark.parametrize(
    ("precision", "half"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)]
)
def test_boxes_stay_in_fp32_and_convolutions_do_not(
    bbx: Any, exports: Path, precision: str, half: int
) -> None:
    # Detections of random weights may lie too close for 16 bits; trained ones are compared elsewhere.
    options = (f"--{precision}", "--lowering", "static", *FEW)
    document = export(bbx, RCNN, exports, *options, verdict="inconclusive")
    assert document["parity"]["verdict"] == "pass" or "Random" in document["parity"]["reasons"][0]
    reasons = {entry["reason"] for entry in document["kept"]}
    assert "works on boxes, scores and their order" in reasons
    typed = onnx.load(document["artifact"])
    infos = tensor_infos(typed)
    source = Path(document["artifact"].removesuffix(f".{precision}.onnx") + ".onnx")
    marked = {
        node.name
        for node in onnx.load(source).graph.node
        if any(entry.key == FLOAT32_MARK for entry in node.metadata_props)
    }
    found = {
        node.name: {infos[name].elem_type for name in node.output} for node in typed.graph.node if node.name
    }
    assert len(marked & found.keys()) > 50
    assert not [name for name in marked & found.keys() if half in found[name]]
    convolutions = [node.name for node in typed.graph.node if node.op_type == "Conv"]
    in_half = [name for name in convolutions if found[name] == {half}]
    assert len(in_half) > 0.8 * len(convolutions) > 30


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_typed_segmenter(bbx: Any, exports: Path, precision: str) -> None:
    document = export(bbx, SEGMENTER, exports, f"--{precision}")
    assert (document["precision"], document["parity"]["verdict"]) == (precision, "pass")


# --- backbones --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "backbone"),
    [
        ("fasterrcnn_r50_fpn", "resnet18"),
        ("retinanet_r50_fpn", "timm:convnext_atto"),
        ("fcos_r50_fpn", "resnet18"),
        ("unet_resnet34", "timm:convnext_atto"),
        ("semantic_fpn_resnet50", "resnet18"),
    ],
)
def test_another_backbone(bbx: Any, tmp_path: Path, model: str, backbone: str) -> None:
    document = export(bbx, model, tmp_path, "--backbone", backbone)
    assert any(backbone in note for note in document["notes"])
    assert Path(document["artifact"]).name == f"{model}.{backbone.replace(':', '-')}.onnx"
    assert f"--backbone {backbone}" in document["command"]


# --- bench ------------------------------------------------------------------------------------------


def test_a_detector_and_a_segmenter_are_measured(tmp_path: Path) -> None:
    found = api.bench(
        [FCOS, SEGMENTER],
        runtimes=["eager", "ort-cpu", "torchscript"],
        out=tmp_path,
        threads=1,
        image_size=64,
        weights="random",
    )
    rows = found["results"]
    assert {(row["subject"], row["runtime"]) for row in rows} == {
        (model, runtime) for model in (FCOS, SEGMENTER) for runtime in ("eager", "ort-cpu", "torchscript")
    }
    assert not [row for row in rows if row["verdict"] in ("failed", "parity_failed")], rows
    assert {row["parity"]["verdict"] for row in rows} == {"pass"}
