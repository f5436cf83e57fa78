"""Bad input to detectors and segmenters: one clear line that says what to type, and the right exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import get_model

RTX = ("--flavor", "rtx", "--target", "sm_86")
FASTER, SSD, UNET = "fasterrcnn_r18_fpn", "ssd300_vgg16", "unet_resnet34"


def refused(bbx: Any, code: int, out: Path, *words: Any) -> str:
    """Run a command that must fail, and give the one line that it writes."""
    answer = bbx(*words, "-q", "-o", out)
    assert answer.code == code, answer.stderr
    assert answer.stderr.count("\n") == 1, answer.stderr
    assert answer.stdout == ""
    assert not out.exists() or not [path for path in out.rglob("*") if path.suffix in (".onnx", ".json")]
    error: str = answer.error
    return error


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (
            1,
            (FASTER, "--image-size", 100),
            "multiple of 32, and 100 was asked. Type: --image-size 96, or 128.",
        ),
        (1, (FASTER, "--image-size", "320x250"), "Type: --image-size 320x224, or 320x256."),
        (1, (UNET, "--image-size", 65), "Type: --image-size 64, or 96."),
        (1, ("fcn_resnet50", "--image-size", 100), "Type: --image-size 96, or 104."),
        (1, (FASTER, "--image-size", 32), "Type: --image-size 64, or more."),
        (1, (FASTER, "--image-size", 0), "--image-size must be a whole number of at least 1"),
        (2, (FASTER, "--image-size", "abc"), "Type one side (224), or HEIGHTxWIDTH (480x640)."),
        (2, (FASTER, "--image-size", "1x2x3"), "Type one side (224), or HEIGHTxWIDTH (480x640)."),
        (1, (SSD, "--image-size", 320), "Leave --image-size out."),
        (1, ("ssdlite320_mobilenet_v3_large", "--image-size", 300), "Leave --image-size out."),
        (2, (FASTER, "--dynamic-size"), "--image-size HEIGHTxWIDTH"),
        (2, (UNET, "--dynamic-size"), "--image-size HEIGHTxWIDTH"),
    ],
)
def test_an_image_size_that_cannot_be(
    bbx: Any, tmp_path: Path, code: int, words: tuple[Any, ...], said: str
) -> None:
    assert said in refused(bbx, code, tmp_path / "out", "export", *words, "--weights", "random")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--candidates", 0, "--candidates must be a whole number of at least 1, and is 0."),
        ("--candidates", -5, "--candidates must be a whole number of at least 1, and is -5."),
        ("--detections", 0, "--detections must be a whole number of at least 1, and is 0."),
        ("--score-threshold", 1.5, "--score-threshold must be at least 0 and below 1, and is 1.5."),
        ("--score-threshold", -0.1, "--score-threshold must be at least 0 and below 1"),
        ("--score-threshold", "nan", "--score-threshold must be at least 0 and below 1"),
        ("--iou-threshold", 1, "--iou-threshold must be at least 0 and below 1"),
        ("--num-classes", 0, "--num-classes must be a whole number of at least 1"),
    ],
)
def test_a_number_out_of_range(bbx: Any, tmp_path: Path, option: str, value: Any, said: str) -> None:
    assert said in refused(bbx, 1, tmp_path / "out", "export", FASTER, option, value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("export", FASTER, "--lowering", "onnx", "-f", "torchscript"), "belongs to --format onnx"),
        (("export", FASTER, "--lowering", "onnx", "-f", "pt2"), "belongs to --format onnx"),
        (("build-trt", FASTER, "--lowering", "onnx", *RTX), "TensorRT for RTX cannot build"),
        (("export", FASTER, "--lowering", "dynamic"), "'auto', 'static', 'onnx'"),
        (("export", FASTER, "--head", "none"), "--head belongs to classifiers"),
        (("export", FASTER, "--argmax"), "--argmax belongs to segmenters"),
        (("export", UNET, "--score-threshold", 0.5), "--score-threshold belongs to detectors"),
        (("export", UNET, "--lowering", "static"), "--lowering belongs to detectors"),
        (("export", "resnet18", "--score-threshold", 0.5), "--score-threshold belongs to detectors"),
        (("export", "resnet18", "--detections", 10), "--detections belongs to detectors"),
        (("export", "resnet18", "--argmax"), "--argmax belongs to segmenters"),
        (("export", SSD, "--backbone", "resnet18"), "--backbone belongs to models on a feature pyramid"),
        (("export", FASTER, "--backbone", "fcos_r50_fpn"), "is a detection model and no backbone"),
        (("export", FASTER, "--score-threshold", "high"), "--score-threshold"),
    ],
)
def test_options_that_do_not_go_together(bbx: Any, tmp_path: Path, words: tuple[Any, ...], said: str) -> None:
    assert said in refused(bbx, 2, tmp_path / "out", *words, "--image-size", 64, "--weights", "random")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((FASTER, "--backbone", "vit_b_16"), "vit_b_16 has feature maps at stride 16"),
        ((FASTER, "--backbone", "resnet1"), "resnet18"),
        (("fasterrcnn_r5O_fpn",), "fasterrcnn_r50_fpn"),
        (("unet_resnet43",), "unet_resnet34"),
    ],
)
def test_a_model_or_a_backbone_that_cannot_be(
    bbx: Any, tmp_path: Path, words: tuple[Any, ...], said: str
) -> None:
    line = refused(bbx, 1, tmp_path / "out", "export", *words, "--image-size", 64, "--weights", "random")
    assert said in line


@pytest.mark.parametrize("command", [("export",), ("build-trt", *RTX)])
def test_a_checkpoint_of_another_class_count(bbx: Any, tmp_path: Path, command: tuple[str, ...]) -> None:
    name = "ssdlite320_mobilenet_v3_large"
    with torch.device("meta"):
        network = get_model(name, weights=None, weights_backbone=None, num_classes=11)
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in network.state_dict().items()}
    save_file(state, tmp_path / "digits.safetensors")
    verb, *options = command
    words = (verb, name, *options, "--weights", tmp_path / "digits.safetensors")
    assert refused(bbx, 1, tmp_path / "out", *words).endswith("Type: --num-classes 11")
