"""What is on the images that a graph is judged by, and the task's metric by it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from bbx import process
from bbx.calibration.accuracy import accuracy_of
from bbx.calibration.data.dataset import CalibrationSet, calibration_set
from bbx.calibration.data.options import CalibrationOptions
from bbx.calibration.truth import Truth, truth_of
from bbx.types import Postprocess, Preprocess, TensorSpec
from tests.calibration.graphs import graph
from tests.scenes.compose import CATEGORIES, coco_dataset, scenes

SIDE = 64
HOW = Preprocess(SIDE, SIDE, fit="stretch")
INPUTS = (TensorSpec("images", "float32", (None, 3, SIDE, SIDE)),)
DETECTION = Postprocess("detection", num_classes=len(CATEGORIES) + 1)
SEGMENTATION = Postprocess("segmentation", num_classes=2)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes of digits with their annotations."""
    folder = tmp_path_factory.mktemp("coco")
    composed = scenes(6, 0, "test", 128)
    document = coco_dataset(composed)
    for about, scene in zip(document["images"], composed, strict=True):
        about["file_name"] = f"{about['id']}.png"
        Image.fromarray(scene.image).save(folder / about["file_name"])
    path = folder / "instances.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """Six pictures whose bright half is class 1, with masks that say so; the last mask says the opposite."""
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for number in range(6):
        half = np.zeros((SIDE, SIDE), np.uint8)
        half[:, : 8 * (number + 1)] = 1
        Image.fromarray(half * np.uint8(200)).convert("RGB").save(
            tmp_path / "data" / "images" / f"{number}.png"
        )
        Image.fromarray(1 - half if number == 5 else half).save(tmp_path / "data" / "masks" / f"{number}.png")
    return tmp_path / "data"


def _set(source: Path) -> CalibrationSet:
    return calibration_set(CalibrationOptions(str(source), batch=2), INPUTS, HOW)


def _truth(data: CalibrationSet, postprocess: Postprocess) -> Truth | None:
    return truth_of(data.record, data.images("all"), HOW, postprocess)


def _answers(truth: Truth) -> dict[str, np.ndarray[Any, Any]]:
    """What a perfect detector would say: the annotated boxes, in pixels of its input."""
    most = max(len(target.labels) for target in truth.targets)
    boxes = np.zeros((len(truth.targets), most, 4), np.float32)
    scores, labels = np.zeros((len(boxes), most), np.float32), np.full((len(boxes), most), -1)
    counts = np.array([len(target.labels) for target in truth.targets])
    for row, (target, size) in enumerate(zip(truth.targets, truth.sizes, strict=True)):
        boxes[row, : counts[row]] = target.boxes * (SIDE / np.array([*size, *size]))
        scores[row, : counts[row]] = 0.9
        labels[row, : counts[row]] = target.labels
    saturated = np.zeros(len(boxes), np.bool_)
    return {
        "boxes": boxes,
        "scores": scores,
        "labels": labels,
        "num_detections": counts,
        "saturated": saturated,
    }


def test_a_coco_file_says_what_is_on_the_images_that_are_judged(coco: Path) -> None:
    data = _set(coco)
    truth = _truth(data, DETECTION)
    assert truth is not None
    assert truth.metric == "mAP"
    assert truth.sizes == ((128, 128),) * 6
    document = json.loads(coco.read_text())
    for image, target in zip(data.images("all"), truth.targets, strict=True):
        identity = int(Path(image.path).stem)
        wanted = [row["category_id"] for row in document["annotations"] if row["image_id"] == identity]
        assert list(target.labels) == wanted


def test_map_is_of_the_annotations(coco: Path) -> None:
    truth = _truth(_set(coco), DETECTION)
    assert truth is not None
    right = _answers(truth)
    parts = [{name: value[start : start + 2] for name, value in right.items()} for start in (0, 2, 4)]
    assert truth.score(parts) == pytest.approx(1.0)
    assert truth.score([right]) == pytest.approx(1.0)
    assert truth.score([{**right, "boxes": right["boxes"] + SIDE / 2}]) < 0.1
    assert truth.score([{**right, "num_detections": np.zeros(6, np.int64)}]) == 0.0


def test_classes_go_by_name_where_the_network_has_names(coco: Path) -> None:
    names = ("background", *reversed(CATEGORIES))
    data = _set(coco)
    plain = _truth(data, DETECTION)
    named = _truth(data, Postprocess("detection", num_classes=len(names), classes=names))
    assert plain is not None
    assert named is not None
    for one, other in zip(plain.targets, named.targets, strict=True):
        assert list(one.labels) == [len(names) - label for label in other.labels]


@pytest.mark.parametrize(
    "postprocess",
    [
        Postprocess("detection", num_classes=91),
        Postprocess("detection", num_classes=3, classes=("background", "cat", "dog")),
    ],
)
def test_classes_that_do_not_fit_are_told(coco: Path, postprocess: Postprocess) -> None:
    with process.collecting_warnings() as told:
        assert _truth(_set(coco), postprocess) is None
    assert any("annotations are not used" in text for text in told)


def test_a_classifier_and_plain_pictures_have_no_annotations(coco: Path, masked: Path) -> None:
    assert _truth(_set(coco), Postprocess("classification", num_classes=11)) is None
    assert _truth(_set(coco.parent), DETECTION) is None
    assert _truth(_set(masked / "images"), SEGMENTATION) is None


def _segmenter(threshold: float) -> onnx.ModelProto:
    """Class 1 where a picture is brighter than the threshold."""
    text = """(float[N,3,64,64] images) => (float[N,2,64,64] logits) {
        one = ReduceMean<keepdims=1>(images, axis)
        two = Sub(one, threshold)
        less = Neg(two)
        logits = Concat<axis=1>(less, two) }"""
    return graph(text, {"axis": np.int64([1]), "threshold": np.float32(threshold)})


def test_masks_are_no_pictures_and_judge_a_segmenter(masked: Path) -> None:
    data = _set(masked)
    assert {image.path for image in data.images("all")} == {f"images/{number}.png" for number in range(6)}
    assert all(image.labels == () for image in data.images("all"))
    truth = _truth(data, SEGMENTATION)
    found = accuracy_of(_segmenter(0.0), lambda: data.batches(split="all"), SEGMENTATION, truth=truth)
    assert (found.name, found.of) == ("mIoU", 6)
    pixels = SIDE * 8 * np.arange(1, 7)
    wrong = SIDE * SIDE  # all pixels of the picture whose mask is upside down
    ones, zeros = pixels[:5].sum(), (SIDE * SIDE - pixels[:5]).sum()
    assert found.baseline == pytest.approx((ones / (ones + wrong) + zeros / (zeros + wrong)) / 2)
    assert found.score(_segmenter(100.0)) < found.baseline / 2 + 0.2


def test_where_fp32_is_never_right_agreement_judges(masked: Path) -> None:
    (masked / "images" / "5.png").unlink()
    (masked / "masks" / "5.png").unlink()
    data = _set(masked)
    truth = _truth(data, SEGMENTATION)
    assert truth is not None
    wrong = replace(truth, targets=tuple(1 - target for target in truth.targets))
    found = accuracy_of(_segmenter(0.0), lambda: data.batches(split="all"), SEGMENTATION, truth=wrong)
    assert (found.name, found.baseline) == ("pixel_agreement", 1.0)
