from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection.roi_heads import paste_masks_in_image

import bbx
from bbx import images
from bbx.errors import ArtifactError, UsageError
from bbx.outputs import Classified, Detected, Segmented, resized, restore
from bbx.types import Postprocess, Preprocess

DETECTION = Postprocess("detection", detections=4)
SEGMENTATION = Postprocess("segmentation", num_classes=3)
LETTERBOX = Preprocess(100, 100, fit="letterbox")
STRETCH = Preprocess(100, 100, fit="stretch")


def _found(boxes: list[list[float]], rows: int = 4, **more: np.ndarray[Any, Any]) -> dict[str, Any]:
    """One image's padded outputs with these boxes."""
    padded = np.zeros((1, rows, 4), np.float32)
    padded[0, : len(boxes)] = np.reshape(boxes, (-1, 4))
    scores = np.zeros((1, rows), np.float32)
    scores[0, : len(boxes)] = np.linspace(0.9, 0.5, len(boxes))
    labels = np.full((1, rows), -1)
    labels[0, : len(boxes)] = np.arange(len(boxes)) + 1
    given = {"num_detections": np.array([len(boxes)]), "saturated": np.array([False])}
    return {"boxes": padded, "scores": scores, "labels": labels, **given, **more}


def _detected(outputs: dict[str, Any], how: Preprocess, size: tuple[int, int]) -> Detected:
    (result,) = restore(outputs, how, DETECTION, [size])
    assert isinstance(result, Detected)
    return result


def test_logits_become_probabilities_best_first() -> None:
    (result,) = restore(
        {"logits": np.log([[1.0, 6.0, 3.0]])}, STRETCH, Postprocess("classification"), [(9, 9)]
    )
    assert isinstance(result, Classified)
    assert result.probabilities == pytest.approx([0.1, 0.6, 0.3])
    assert result.order.tolist() == [1, 2, 0]


def test_boxes_of_a_letterbox_are_scaled_by_one_factor() -> None:
    # 400 x 200 pixels stand in the upper half of 100 x 100.
    result = _detected(_found([[10, 20, 30, 40]]), LETTERBOX, (400, 200))
    assert result.boxes.tolist() == [[40, 80, 120, 160]]


def test_boxes_of_a_stretched_image_are_scaled_along_each_axis() -> None:
    result = _detected(_found([[10, 20, 30, 40]]), STRETCH, (400, 200))
    assert result.boxes.tolist() == [[40, 40, 120, 80]]


def test_what_lies_in_the_margin_is_cut_off_or_dropped() -> None:
    result = _detected(_found([[10, 40, 30, 70], [10, 60, 30, 90], [0, 0, 10, 10]]), LETTERBOX, (400, 200))
    assert result.boxes.tolist() == [[40, 160, 120, 200], [0, 0, 40, 40]]
    assert result.labels.tolist() == [1, 3]
    assert result.scores == pytest.approx([0.9, 0.5])


def test_padding_is_no_detection() -> None:
    result = _detected(_found([]), LETTERBOX, (400, 200))
    assert result.boxes.shape == (0, 4)
    assert result.masks is None
    assert result.keypoints is None


def test_a_limit_that_was_reached_is_passed_on() -> None:
    assert _detected(_found([], saturated=np.array([True])), LETTERBOX, (40, 20)).saturated


def test_masks_are_pasted_as_torchvision_pastes_them() -> None:
    generator = np.random.default_rng(0)
    boxes = [[3.2, 10.7, 60.4, 80.1], [50.0, -5.0, 120.0, 40.0], [20.0, 20.0, 21.0, 22.0]]
    masks = generator.random((1, 4, 28, 28), dtype=np.float32)
    outputs = _found(boxes, masks=masks)
    inside = np.clip(np.array(boxes, np.float32), 0, 100)
    theirs = paste_masks_in_image(torch.from_numpy(masks[0, :3, None]), torch.from_numpy(inside), (100, 100))
    result = _detected(outputs, STRETCH, (100, 100))
    assert result.masks is not None
    assert result.masks.shape == (3, 100, 100)
    differing = result.masks != (theirs[:, 0].numpy() > 0.5)
    assert differing.mean() < 1e-4  # a probability may round to the other side of the threshold
    assert result.masks[0].any()


def test_keypoints_move_with_the_boxes() -> None:
    keypoints = np.zeros((1, 4, 2, 3), np.float32)
    keypoints[0, 0] = [[10, 20, 1], [30, 40, 1]]
    result = _detected(_found([[10, 20, 30, 40]], keypoints=keypoints), LETTERBOX, (400, 200))
    assert result.keypoints is not None
    assert result.keypoints.tolist() == [[[40, 80, 1], [120, 160, 1]]]


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_labels_and_logits_tell_the_same_of_every_pixel(fit: Any) -> None:
    how = Preprocess(60, 60, fit=fit)
    picture = np.zeros((40, 120, 3), np.uint8)
    picture[:, 60:] = 255  # the right half is white
    white = images.apply(Image.fromarray(picture), how)[0] > 0
    logits = np.stack([np.zeros(white.shape), np.where(white, 1.0, -1.0)])[None]
    for outputs in ({"logits": logits}, {"labels": white.astype(np.uint8)[None]}):
        (result,) = restore(outputs, how, SEGMENTATION, [(120, 40)])
        assert isinstance(result, Segmented)
        assert result.labels.shape == (40, 120)
        assert (result.labels[:, 62:] == 1).all()
        assert (result.labels[:, :58] == 0).all()


def test_planes_are_resized_as_torch_does() -> None:
    plane = np.random.default_rng(1).random((7, 5))
    for size in ((20, 33), (3, 2)):
        theirs = torch.nn.functional.interpolate(
            torch.from_numpy(plane)[None, None], size=size, mode="bilinear", align_corners=False
        )
        assert resized(plane, *size) == pytest.approx(theirs[0, 0].numpy())


def test_outputs_of_another_network_are_refused() -> None:
    with pytest.raises(UsageError, match="no output 'logits'"):
        restore({"features": np.zeros((1, 3))}, STRETCH, Postprocess("classification"), [(9, 9)])
    with pytest.raises(UsageError, match="1 rows were computed, and 2 image sizes"):
        restore(_found([]), STRETCH, DETECTION, [(9, 9), (9, 9)])


def test_a_file_without_a_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match="has no manifest"):
        bbx.preprocess([Image.new("RGB", (4, 4))], tmp_path / "net.onnx")
    with pytest.raises(ArtifactError, match="has no manifest"):
        bbx.postprocess({}, tmp_path / "net.onnx", [])


@pytest.mark.usefixtures("inline_tasks")
def test_a_detector_speaks_of_the_images_it_was_given(tmp_path: Path) -> None:
    """From files to boxes in their pixels by the manifest alone."""
    import onnxruntime as ort

    out = tmp_path / "net.onnx"
    bbx.export("fcos_r50_fpn", image_size=128, weights="random", detections=20, out=out)
    paths = images.photographs()[:2]
    feed = bbx.preprocess([str(path) for path in paths], out)
    assert feed.shape == (2, 3, 128, 128)
    session = ort.InferenceSession(out, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {"images": feed}), strict=True))
    sizes = [images.decode(path).size for path in paths]
    for result, (width, height) in zip(bbx.postprocess(outputs, out, sizes), sizes, strict=True):
        assert isinstance(result, Detected)
        assert len(result.boxes)
        assert (result.boxes >= 0).all()
        assert (result.boxes <= [width, height, width, height]).all()
