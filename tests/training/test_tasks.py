"""Detectors and segmenters in training: from files to a checkpoint that names its classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bbx.errors import ModelError
from bbx.models.build import build
from bbx.models.spec import ModelSpec
from bbx.train_api import train
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
