"""What the parity of an eight-bit graph proves where nobody trained the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from bbx.artifact import manifest_path
from bbx.calibration.quantise import prepared_for
from bbx.calibration.scales import TensorScale, read_scales, write_scales
from bbx.errors import CheckFailed
from bbx.exporter.heads import heads_of, unsorted_heads
from bbx.exporter.to_typed import TypedGraph, typed_from_onnx
from bbx.images import photographs
from bbx.pipeline import typed
from bbx.pipeline.steps import TypedStep

CLASSIFIER = ("timm:test_resnet", "--image-size", 64, "--weights", "random")
TWO_STAGES = ("fasterrcnn_mobilenet_v3_large_320_fpn", "--image-size", "64x96", "--weights", "random")


@pytest.fixture
def pictures() -> Path:
    return photographs()[0].parent


def _quantize(bbx: Any, model: tuple[Any, ...], pictures: Path, out: Path, *options: Any) -> Any:
    asked = ("--calib", pictures, "--calib-batch", 1, "--method", "max", "--json", "-q", "-o", out, *options)
    return bbx("quantize", *model, *asked)


def _too_small(scales: Path) -> Path:
    """The same scales, a thousandth as large: everything saturates."""
    path = scales.with_name("small.json")
    given = {name: TensorScale(scale / 1000) for name, scale in read_scales(scales).items()}
    write_scales(path, given)
    return path


def test_random_weights_that_lose_everything_prove_nothing_at_any_stage(
    bbx: Any, pictures: Path, tmp_path: Path
) -> None:
    good = _quantize(bbx, CLASSIFIER, pictures, tmp_path)
    assert (good.code, good.document["parity"]["verdict"]) == (0, "pass"), good.stderr
    small = _too_small(Path(good.document["calibration"]["scales"]))
    bad = _quantize(bbx, CLASSIFIER, pictures, tmp_path / "bad", "--scales", small)
    assert (bad.code, bad.document["parity"]["verdict"]) == (0, "inconclusive"), bad.stderr
    assert bad.document["parity"]["reasons"][0].startswith("Random weights have no answer to keep: ")
    staged = bbx("parity", bad.document["artifact"], "--json", "-q")
    assert (staged.code, staged.document["verdict"]) == (0, "inconclusive"), staged.stderr
    (qdq,) = [stage for stage in staged.document["stages"] if stage["stage"] == "qdq"]
    assert qdq["to_first"]["reasons"][0].startswith("Random weights have no answer to keep: ")


@pytest.mark.parametrize(("weights", "verdict"), [("random", "inconclusive"), ("file", "fail")])
def test_in_16_bits_random_weights_prove_nothing_either(
    bbx: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, weights: str, verdict: str
) -> None:
    made = _quantize(bbx, CLASSIFIER, pictures, tmp_path)
    path = Path(made.document["artifact"])
    manifest = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps({**manifest, "weights": weights}))

    def broken(*arguments: Any, **options: Any) -> TypedGraph:
        graph = typed_from_onnx(*arguments, **options)
        for tensor in graph.model.graph.initializer:
            if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1:
                values = numpy_helper.to_array(tensor)[::-1]
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
        return graph

    monkeypatch.setattr(typed, "typed_from_onnx", broken)
    step = TypedStep("a test", path, "fp16")
    request = {"step": step.to_request(), "path": str(tmp_path / "broken.onnx")}
    if verdict == "fail":
        with pytest.raises(CheckFailed, match="relative L2"):
            typed.typed_task(request)
    else:
        assert typed.typed_task(request)["parity"]["verdict"] == verdict


def test_answers_that_are_not_finite_are_broken_whatever_the_weights(
    bbx: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _quantize(bbx, CLASSIFIER, pictures, tmp_path)

    def overflowing(*arguments: Any, **options: Any) -> TypedGraph:
        graph = typed_from_onnx(*arguments, **options)
        scales = [
            tensor for tensor in graph.model.graph.initializer if tensor.data_type == TensorProto.FLOAT16
        ]
        largest = max(scales, key=lambda tensor: numpy_helper.to_array(tensor).size)
        values = np.full_like(numpy_helper.to_array(largest), np.inf)
        largest.CopyFrom(numpy_helper.from_array(values, largest.name))
        return graph

    monkeypatch.setattr(typed, "typed_from_onnx", overflowing)
    step = TypedStep("a test", Path(made.document["artifact"]), "fp16")
    request = {"step": step.to_request(), "path": str(tmp_path / "broken.onnx")}
    with pytest.raises(CheckFailed, match="relative L2 inf"):
        typed.typed_task(request)


def test_a_detector_of_random_weights_is_judged_by_the_heads_of_both_stages(
    bbx: Any, pictures: Path, tmp_path: Path
) -> None:
    found = _quantize(bbx, TWO_STAGES, pictures, tmp_path)
    assert found.code == 0, found.stderr
    parity = found.document["parity"]
    assert parity["verdict"] == "pass" or parity["reasons"][0].startswith("Random weights")
    source = prepared_for(onnx.load(tmp_path / f"{TWO_STAGES[0]}.onnx"), "int8")
    heads = heads_of(source)
    assert len(heads) == len(unsorted_heads(source)) + len(("logits", "boxes"))
    of_heads = [case["outputs"] for case in parity["cases"] if "detections" not in case]
    assert of_heads
    assert all(set(each) == set(heads) for each in of_heads)
    assert all(0 < distance["rel_l2"] < 1 for each in of_heads for distance in each.values())
