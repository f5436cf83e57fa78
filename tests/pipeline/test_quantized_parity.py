"""What the parity of an eight-bit graph proves where nobody trained the network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from bbx import quantize
from bbx.artifact import manifest_path
from bbx.calibration.quantise import prepared_for
from bbx.calibration.scales import TensorScale, read_scales, write_scales
from bbx.errors import CheckFailed
from bbx.exporter import verify
from bbx.exporter.detections import DetectionTolerance
from bbx.exporter.heads import heads_of, unsorted_heads
from bbx.exporter.to_typed import TypedGraph, typed_from_onnx
from bbx.exporter.verify import Tolerance
from bbx.images import photographs
from bbx.pipeline import typed, typed_parity
from bbx.pipeline.steps import TypedStep

CLASSIFIER = ("timm:test_resnet", "--image-size", 64, "--weights", "random")
NOTHING_MOVES = DetectionTolerance(rel_l2=1e-9, cosine=1.0, iou=1.0, score=0.0, matched=1.0, extra=0.0)
TWO_STAGES = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture
def pictures() -> Path:
    return photographs()[0].parent


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document of a two-stage detector with random weights, in INT8."""
    made: dict[str, Any] = quantize(
        TWO_STAGES,
        image_size=(64, 96),
        weights="random",
        calib=str(photographs()[0].parent),
        calib_batch=1,
        method="max",
        out=tmp_path_factory.mktemp("detector"),
    )
    return made


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


def _broken(*arguments: Any, **options: Any) -> TypedGraph:
    """The graph in 16 bits, its layers' weights with the output channels in the opposite order."""
    graph = typed_from_onnx(*arguments, **options)
    for tensor in graph.model.graph.initializer:
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1:
            values = numpy_helper.to_array(tensor)[::-1]
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    return graph


def _in_16_bits(path: Path, out: Path, precision: Literal["fp16", "bf16"] = "fp16") -> dict[str, Any]:
    """The document of a quantised graph's 16-bit one."""
    step = TypedStep("a test", path, precision)
    return typed.typed_task({"step": step.to_request(), "path": str(out)})


def _of_weights(path: Path, weights: str) -> None:
    """Let the manifest say where the weights are from."""
    manifest = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps({**manifest, "weights": weights}))


@pytest.mark.parametrize("weights", ["random", "file"])
def test_in_16_bits_random_weights_excuse_no_fault(
    bbx: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    path = Path(_quantize(bbx, CLASSIFIER, pictures, tmp_path).document["artifact"])
    _of_weights(path, weights)
    monkeypatch.setattr(typed, "typed_from_onnx", _broken)
    with pytest.raises(CheckFailed, match=r"relative L2 \d") as failure:
        _in_16_bits(path, tmp_path / "broken.onnx")
    random = weights == "random"
    only = "carries the Q/DQ graph from itself by a relative L2 of only"
    assert (only in str(failure.value)) == random
    staged = bbx("parity", tmp_path / "broken.failed.onnx", "--json", "-q")
    assert (staged.code, staged.document["pinned"]) == (3, "typed")
    assert (only in staged.error) == random


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_in_16_bits_random_weights_excuse_what_their_rounding_does(
    bbx: Any,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Literal["fp16", "bf16"],
) -> None:
    path = Path(_quantize(bbx, CLASSIFIER, pictures, tmp_path).document["artifact"])
    strict = Tolerance(rel_l2=1e-5, cosine=1 - 1e-10, agreement=1.0)
    monkeypatch.setattr(typed_parity, "tolerance_of", lambda *_: strict)
    parity = _in_16_bits(path, tmp_path / "right.onnx", precision)["parity"]
    assert parity["verdict"] == "inconclusive"
    assert re.fullmatch(
        r"Random weights have no answer to keep: .* relative L2 .* "
        rf"Noise of the size of {precision.upper()} rounding carries the Q/DQ graph from itself by a "
        r"relative L2 of \d\.\d\de-\d\d\.",
        parity["reasons"][0],
    )
    _of_weights(path, "file")
    with pytest.raises(CheckFailed, match="relative L2"):
        _in_16_bits(path, tmp_path / "trained.onnx", precision)


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


def test_a_detector_of_random_weights_is_judged_by_the_heads_of_both_stages(detector: dict[str, Any]) -> None:
    parity = detector["parity"]
    assert parity["verdict"] == "pass" or parity["reasons"][0].startswith("Random weights")
    fp32 = Path(detector["artifact"]).with_name(f"{TWO_STAGES}.onnx")
    source = prepared_for(onnx.load(fp32), "int8")
    heads = heads_of(source)
    assert len(heads) == len(unsorted_heads(source)) + len(("logits", "boxes"))
    of_heads = [case["outputs"] for case in parity["cases"] if "detections" not in case]
    assert of_heads
    assert all(set(each) == set(heads) for each in of_heads)
    assert all(0 < distance["rel_l2"] < 1 for each in of_heads for distance in each.values())


def test_in_16_bits_a_detector_of_random_weights_is_excused_by_what_rounding_does_to_its_heads(
    detector: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(detector["artifact"])
    strict = {**verify.TOLERANCES, "fp16": Tolerance(rel_l2=1e-5, cosine=1 - 1e-10, agreement=1.0)}
    monkeypatch.setattr(verify, "TOLERANCES", strict)
    monkeypatch.setattr(typed_parity, "tolerance_of", lambda *_: NOTHING_MOVES)
    right = _in_16_bits(path, tmp_path / "right.onnx")["parity"]
    assert right["verdict"] == "inconclusive"
    assert "FP16 rounding carries the Q/DQ graph from itself by a relative L2 of " in right["reasons"][0]
    monkeypatch.setattr(typed, "typed_from_onnx", _broken)
    with pytest.raises(CheckFailed, match="by a relative L2 of only"):
        _in_16_bits(path, tmp_path / "broken.onnx")
