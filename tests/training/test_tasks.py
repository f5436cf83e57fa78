"""Detectors and segmenters in training: from files to a checkpoint that names its classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bbx.errors import ModelError, WeightsError
from bbx.models.build import build
from bbx.models.spec import ModelSpec
from bbx.train_api import train
from bbx.training.options import TrainOptions
from bbx.training.subject import Subject, subject_of
from tests.training.scene_files import write_coco, write_masks


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


def test_outlines_are_not_read(inline_tasks: None, tmp_path: Path) -> None:
    write_coco(tmp_path, 2, "train")
    with pytest.raises(ModelError, match="maskrcnn_r50_fpn learns from outlines"):
        train("maskrcnn_r50_fpn", data=tmp_path / "train.json", out=tmp_path / "run", weights="random")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("ssdlite320_mobilenet_v3_large", None),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", 64),
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
