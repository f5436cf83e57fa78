"""Detectors and segmenters in training: from files to a checkpoint that names its classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bbx.errors import BbxError, WeightsError
from bbx.models.build import build
from bbx.models.spec import ModelSpec
from bbx.models.trained import named_spec
from bbx.train_api import train
from bbx.training.options import TrainOptions
from bbx.training.subject import Subject, subject_of
from tests.training.scene_files import CORNERS, write_coco, write_masks


def test_a_segmenter_learns_masks(inline_tasks: None, tmp_path: Path) -> None:
    data = write_masks(tmp_path / "masks", 12, "train", side=64)
    document = train(
        "lraspp_mobilenet_v3_large",
        data=data,
        out=tmp_path / "run",
        image_size=64,
        weights="random",
        epochs=2,
        batch_size=5,
        workers=0,
        lr=2e-3,
    )
    assert document["classes"][:2] == ["background", "0"]
    first, last = document["epochs"]
    assert last["train_loss"] < first["train_loss"]
    assert first["val_loss"] is not None
    assert (last["metric"], set(last["scores"])) == ("mIoU", {"mIoU", "pixel_accuracy"})
    model = build(
        ModelSpec("lraspp_mobilenet_v3_large", num_classes=11, image_size=64, weights=document["checkpoint"])
    )
    assert model.postprocess is not None
    assert model.postprocess.classes == tuple(document["classes"])


def test_a_detector_goes_on_learning_boxes(inline_tasks: None, tmp_path: Path) -> None:
    """From weights that know the scenes: boxes that were mapped wrongly would cost them what they know."""
    write_coco(tmp_path, 6, "train", side=192)
    write_coco(tmp_path, 6, "test", side=192)
    document = train(
        "ssdlite320_mobilenet_v3_large",
        data=tmp_path,
        val="test",
        out=tmp_path / "run",
        weights=str(Path(__file__).parents[1] / "scenes" / "ssdlite.safetensors"),
        epochs=1,
        batch_size=3,
        workers=0,
        lr=1e-5,
    )
    assert document["classes"] == ["background", *"0123456789"]
    [epoch] = document["epochs"]
    assert epoch["val_loss"] is None
    assert epoch["value"] == epoch["scores"]["mAP"] > 0.3
    assert "batch norms of the backbone keep their statistics" in document["notes"]


SMALL = {"image_size": 64, "weights": "random", "epochs": 1, "batch_size": 2, "workers": 0}


def test_a_detector_learns_outlines(inline_tasks: None, tmp_path: Path) -> None:
    data = write_coco(tmp_path, 4, "train", side=64, parts=True)
    document = train(
        "maskrcnn_r50_fpn", data=data, val="0.5", out=tmp_path / "run", backbone="resnet18", **SMALL
    )
    [epoch] = document["epochs"]
    assert {"mAP", "mask_mAP", "mask_mAP50"} <= set(epoch["scores"])
    assert epoch["metric"] == "mAP"
    model = build(named_spec(document["checkpoint"], {}))
    assert [spec.name for spec in model.outputs][-1] == "masks"
    # The layer that makes a mask for each class has been learning.
    layer = "roi_heads.mask_predictor.mask_fcn_logits.weight"
    before = subject_of(TrainOptions(_spec(document), str(data)), 11).objective.network.state_dict()[layer]
    after = load_file(document["checkpoint"])[layer]
    assert before.shape == after.shape == (11, 256, 1, 1)
    assert not torch.equal(before, after)


def _spec(document: dict[str, Any]) -> ModelSpec:
    """The spec of a trained network before it was trained."""
    return replace(named_spec(document["checkpoint"], {}), weights="random")


def test_a_detector_learns_as_many_keypoints_as_the_data_has(inline_tasks: None, tmp_path: Path) -> None:
    data = write_coco(tmp_path, 3, "train", side=64, parts=True)
    document = train(
        "keypointrcnn_r50_fpn", data=data, val="0.34", out=tmp_path / "run", backbone="resnet18", **SMALL
    )
    [epoch] = document["epochs"]
    assert {"mAP", "keypoint_mAP", "keypoint_mAP50"} <= set(epoch["scores"])
    spec = named_spec(document["checkpoint"], {})
    assert spec.num_keypoints == len(CORNERS)
    model = build(spec)
    assert {each.name: each.shape for each in model.outputs}["keypoints"] == (None, 100, len(CORNERS), 3)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("maskrcnn_r50_fpn", lambda each: each.pop("segmentation"), "learns from outlines, and an object on"),
        (
            "maskrcnn_r50_fpn",
            lambda each: each.update(segmentation=[[1, 2, 3, 4]]),
            "has a polygon that is no list of three corners",
        ),
        (
            "maskrcnn_r50_fpn",
            lambda each: each["segmentation"].update(counts=[5, 5]),
            "on train/1.png cannot be decoded",
        ),
        (
            "maskrcnn_r50_fpn",
            lambda each: each["segmentation"].update(size=[2, 2], counts=[2, 2]),
            "an outline is encoded for 2 × 2 pixels, and the image has 64 × 64",
        ),
        (
            "keypointrcnn_r50_fpn",
            lambda each: each.update(keypoints=each["keypoints"][:9]),
            "learns from keypoints, and .* has none, or not the same on all objects",
        ),
        ("keypointrcnn_r50_fpn", lambda each: each.update(keypoints=[1, 2, "x"]), "are no list of x, y and"),
    ],
)
def test_data_that_lacks_what_a_detector_learns_from_is_refused_before_the_first_step(
    inline_tasks: None, tmp_path: Path, name: str, change: Any, message: str
) -> None:
    path = write_coco(tmp_path, 2, "train", side=64, parts=True)
    document = json.loads(path.read_text())
    change(document["annotations"][0])
    path.write_text(json.dumps(document))
    with pytest.raises(BbxError, match=message):
        train(name, data=path, val="0.5", out=tmp_path / "run", backbone="resnet18", **SMALL)
    assert not (tmp_path / "run" / "best.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("ssdlite320_mobilenet_v3_large", None),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", 64),
        ("maskrcnn_r50_fpn", 64),
        ("lraspp_mobilenet_v3_large", 64),
    ],
)
def test_weights_for_other_classes_are_loaded_but_for_the_head(
    name: str, size: int | None, tmp_path: Path
) -> None:
    def subject(classes: int, weights: str) -> Subject:
        spec = ModelSpec(name, weights=weights, image_size=size)
        return subject_of(TrainOptions(spec, "data"), classes)

    before = subject(5, "random").objective.network.state_dict()
    path = tmp_path / "five.safetensors"
    save_file(before, path)
    three = subject(3, str(path))
    [note] = [note for note in three.notes if "head is new" in note]
    assert note.endswith("five.safetensors has 5 classes, and this one 3")
    after = three.objective.network.state_dict()
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert any(key.startswith("backbone.") for key in same)
    assert all(before[key].shape != after[key].shape for key in before.keys() - same)
    # To be used, and not trained further, such weights are refused.
    with pytest.raises(WeightsError, match="has a head of 5 classes, and the model one of 3"):
        build(ModelSpec(name, weights=str(path), image_size=size, num_classes=3))
