"""The step to a quantised graph as plain data, and the command that asks for it again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bbx import artifact
from bbx.calibration.data.options import CalibrationOptions
from bbx.errors import UsageError
from bbx.images import photographs
from bbx.making import CALIBRATION_DEFAULTS, command_line
from bbx.models.build import build
from bbx.models.spec import ModelSpec
from bbx.pipeline import QuantizeStep
from tests.calibration.graphs import graph, normal


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    _write(path, 1.0)
    return path


def _write(path: Path, weight: float) -> None:
    text = "(float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }"
    onnx.save(graph(text, {"w": np.full((4, 4), weight, np.float32)}), path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "pictures" / "inner").mkdir(parents=True)
    (tmp_path / "pictures" / "a.png").write_bytes(b"a")
    (tmp_path / "pictures" / "inner" / "b.png").write_bytes(b"b")
    return tmp_path / "pictures"


def _step(source: Path, pictures: Path | None = None, **options: Any) -> QuantizeStep:
    data = CalibrationOptions(source=None if pictures is None else str(pictures), images=64)
    return QuantizeStep("bbx quantize net.onnx", source, data=data, **options)


def test_it_survives_the_way_to_the_child(source: Path, pictures: Path, tmp_path: Path) -> None:
    step = _step(
        source,
        pictures,
        precision="fp8",
        method="percentile:99.9",
        max_drop=0.005,
        keep=("stem", "head*"),
        scales=tmp_path / "scales.json",
    )
    again = QuantizeStep.from_request(step.to_request())
    assert again == step
    assert again.fingerprint() == step.fingerprint()
    assert step.stem == "net.fp8"


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp8"},
        {"method": "max"},
        {"max_drop": 0.01},
        {"keep": ("stem",)},
        {"refine": ("bias",)},
        {"data": CalibrationOptions(source=None, images=64)},
    ],
)
def test_every_option_is_part_of_what_is_asked(source: Path, pictures: Path, options: dict[str, Any]) -> None:
    step = _step(source, pictures)
    other = QuantizeStep(**{"command": "", "source": source, "data": step.data, **options})
    assert other.fingerprint() != step.fingerprint()


def test_images_and_graph_and_scales_are_known_by_their_content(source: Path, pictures: Path) -> None:
    scales = source.with_name("scales.json")
    scales.write_text("{}")
    seen = []

    def fingerprint() -> str:
        seen.append(_step(source, pictures, scales=scales).fingerprint())
        return seen[-1]

    assert fingerprint() == fingerprint()
    (pictures / "inner" / "b.png").write_bytes(b"c")
    fingerprint()
    shutil.copy(pictures / "a.png", pictures / "c.png")
    fingerprint()
    scales.write_text("{ }")
    fingerprint()
    _write(source, 2.0)
    fingerprint()
    assert len(set(seen)) == len(seen) - 1


def _list(pictures: Path) -> Path:
    path = pictures.parent / "list.txt"
    path.write_text("pictures/a.png\npictures/inner/b.png\n")
    return path


def _annotations(pictures: Path) -> Path:
    path = pictures.parent / "instances.json"
    names = ("pictures/a.png", "pictures/inner/b.png")
    path.write_text(
        json.dumps({"images": [{"id": index, "file_name": name} for index, name in enumerate(names)]})
    )
    return path


@pytest.mark.parametrize("named", [_list, _annotations])
def test_images_that_a_file_names_are_known_by_their_content(
    source: Path, pictures: Path, named: Callable[[Path], Path]
) -> None:
    path = named(pictures)
    before = _step(source, path).fingerprint()
    assert _step(source, path).fingerprint() == before
    assert _step(source, path).reusable
    (pictures / "unnamed.png").write_bytes(b"x")
    assert _step(source, path).fingerprint() == before
    (pictures / "inner" / "b.png").write_bytes(b"another")
    assert _step(source, path).fingerprint() != before


def test_images_to_judge_by_are_known_by_their_content(source: Path, pictures: Path) -> None:
    def fingerprint() -> str:
        data = CalibrationOptions(source=None, evaluation=str(_list(pictures)), images=64)
        return QuantizeStep("", source, data=data).fingerprint()

    before = fingerprint()
    assert fingerprint() == before
    (pictures / "a.png").write_bytes(b"another")
    assert fingerprint() != before


def test_a_list_gives_the_artefact_again_until_an_image_changes(
    bbx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "source_digest", lambda: "the source")
    text = "(float[N,3,16,16] x) => (float[N,4,16,16] y) { y = Conv(x, w) }"
    onnx.save(graph(text, {"w": normal(4, 3, 1, 1)}), tmp_path / "net.onnx")
    for number, photograph in enumerate(photographs()):
        Image.open(photograph).resize((20, 20)).save(tmp_path / f"{number}.png")
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{number}.png\n" for number in range(len(photographs()))))
    ask = ("quantize", tmp_path / "net.onnx", "--calib", listed, "--json", "-q", "-o", tmp_path / "out")
    answers = [bbx(*ask), bbx(*ask)]
    assert [answer.code for answer in answers] == [0, 0], answers[0].stderr
    Image.new("RGB", (20, 20), "teal").save(tmp_path / "0.png")
    answers.append(bbx(*ask))
    assert [answer.document["reused"] for answer in answers] == [False, True, False]


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """Eight pictures, with masks of two classes."""
    for number, photograph in enumerate(photographs() * 2):
        picture = Image.open(photograph).convert("RGB").resize((64, 64))
        for name, image in (("images", picture), ("masks", picture.convert("L").point(lambda v: v // 128))):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


@pytest.mark.parametrize(("classes", "metric"), [(2, "mIoU"), (3, "pixel_agreement")])
def test_a_budget_is_in_the_terms_of_the_masks(
    bbx: Any, masked: Path, tmp_path: Path, classes: int, metric: str
) -> None:
    ask = ("quantize", "lraspp_mobilenet_v3_large", "--num-classes", classes, "--image-size", 64, "--method")
    answer = bbx(*ask, "max", "--calib", masked, "--max-drop", "99%", "--json", "-q", "-o", tmp_path)
    assert answer.code == 0, answer.stderr
    assert answer.document["accuracy"]["metric"] == metric
    assert answer.document["calibration"]["images"] + answer.document["calibration"]["held_out"] == 8
    told = [text for text in answer.document["warnings"] if "annotations are not used" in text]
    assert len(told) == (metric == "pixel_agreement")


def test_masks_that_fp32_sees_nothing_of_are_told(bbx: Any, masked: Path, tmp_path: Path) -> None:
    """A network that calls everything the background, and masks that call everything the other class."""
    for mask in (masked / "masks").iterdir():
        Image.new("L", (64, 64), 1).save(mask)
    name = "lraspp_mobilenet_v3_large"
    weights = build(ModelSpec(name, num_classes=2, image_size=64, weights="random")).module.state_dict()
    weights["classifier.low_classifier.bias"].copy_(torch.tensor([100.0, -100.0]))
    save_file(weights, tmp_path / "blind.safetensors")
    ask = (
        "quantize",
        name,
        "--num-classes",
        2,
        "--image-size",
        64,
        "--weights",
        tmp_path / "blind.safetensors",
    )
    answer = bbx(*ask, "--method", "max", "--calib", masked, "--json", "-q", "-o", tmp_path)
    assert answer.code == 0, answer.stderr
    assert answer.document["accuracy"]["metric"] == "pixel_agreement"
    [told] = [text for text in answer.document["warnings"] if "by the annotations" in text]
    assert told.startswith("FP32 has a mIoU of 0")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "best"}, "no calibration method 'best'"),
        ({"method": "percentile:12"}, "no calibration method"),
        ({"max_drop": 1.0}, "--max-drop is 100.0%"),
        ({"max_drop": -0.1}, "--max-drop is -10.0%"),
        ({"refine": ("polish",)}, "polish"),
    ],
)
def test_wrong_options_fail_where_the_step_is_made(source: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        _step(source, **options)


def test_the_command_asks_for_the_same() -> None:
    options = {"precision": "int8", "rest": "fp16", "calib": "my pictures", "calib_images": 512}
    options |= {"max_drop": 0.005, "keep": ("stem", "head*"), "allow_random": False, "method": "auto"}
    assert (
        command_line("quantize", "net.onnx", options, CALIBRATION_DEFAULTS)
        == "bbx quantize net.onnx --int8 --fp16 --calib 'my pictures' --max-drop 0.5% "
        "--keep stem --keep 'head*'"
    )
