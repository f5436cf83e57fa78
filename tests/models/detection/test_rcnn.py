"""The R-CNN family finds torchvision's boxes, masks and keypoints: in torch, in ONNX Runtime, as engines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection as zoo
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from bbx.errors import BuildError, ModelError
from bbx.exporter.engine_options import EngineOptions
from bbx.exporter.to_engine import engine_from_onnx
from bbx.models.detection.options import DetectionOptions
from bbx.models.detection.rcnn import FasterRCNN, KeypointRCNN, MaskRCNN

SIZE = (160, 192)
HOW = DetectionOptions(score_threshold=0.05, iou_threshold=0.5, candidates=1000, detections=40)
CLASSES = 7
FEW: dict[str, Any] = {"rpn_pre_nms_top_n_test": 300, "rpn_post_nms_top_n_test": 100}
"""Proposals; fewer than usual, so that the tests are quick."""
LOWERINGS = ("static", "onnx")


def _resnet18() -> nn.Module:
    return resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )


def _small() -> Any:
    return zoo.FasterRCNN(_resnet18(), CLASSES, **FEW)


def _small_v2() -> Any:
    """The heads of torchvision's v2: convolutions with normalisation before the box head's linear layer."""
    head = FastRCNNConvFCHead((256, 7, 7), [256] * 2, [1024], norm_layer=nn.BatchNorm2d)
    rpn_head = RPNHead(256, 3, conv_depth=2)
    return zoo.FasterRCNN(_resnet18(), CLASSES, rpn_head=rpn_head, box_head=head, **FEW)


def _resnet50() -> Any:
    return zoo.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES, **FEW)


def _mobilenet() -> Any:
    make = zoo.fasterrcnn_mobilenet_v3_large_320_fpn
    return make(weights=None, weights_backbone=None, num_classes=CLASSES)


def _mask() -> Any:
    return zoo.MaskRCNN(
        _resnet18(),
        box_predictor=FastRCNNPredictor(1024, CLASSES),
        mask_head=MaskRCNNHeads(256, (32, 32), 1),
        mask_predictor=MaskRCNNPredictor(32, 32, CLASSES),
        **FEW,
    )


def _keypoint() -> Any:
    return zoo.KeypointRCNN(
        _resnet18(),
        box_predictor=FastRCNNPredictor(1024, 2),
        keypoint_head=KeypointRCNNHeads(256, (32, 32)),
        keypoint_predictor=KeypointRCNNPredictor(32, 5),
        **FEW,
    )


@pytest.fixture(scope="module")
def images(reference: Any) -> Tensor:
    return reference.photographs(5, SIZE)


def _answers(reference: Any, network: Any, how: DetectionOptions, images: Tensor) -> list[dict[str, Tensor]]:
    heads = network.roi_heads
    heads.score_thresh, heads.nms_thresh = how.score_threshold, how.iou_threshold
    heads.detections_per_img = how.detections
    found: list[dict[str, Tensor]] = reference.answers(network, how, images)
    return found


@torch.no_grad()
def _lively(network: Any, reference: Any, images: Tensor) -> Any:
    """Random weights that find many things: last layers' channels are given this mean and deviation."""
    network.eval().transform = reference.Untransformed()
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    network(list(images[:2]))
    for norm in norms:
        norm.eval()
    box, rpn = network.roi_heads.box_predictor, network.rpn.head
    for layer, mean, deviation in (
        (rpn.cls_logits, -2.0, 3.0),
        (rpn.bbox_pred, 0.0, 0.3),
        (box.cls_score, 0.0, 3.0),
        (box.bbox_pred, 0.0, 1.0),
    ):
        heard: list[Tensor] = []
        handle = layer.register_forward_hook(
            lambda _module, _inputs, output, heard=heard: heard.append(output.movedim(1, -1).flatten(0, -2))
        )
        network(list(images[:2]))
        handle.remove()
        values = torch.cat(heard)
        factor = deviation / values.std(dim=0)
        layer.weight *= factor.reshape(-1, *[1] * (layer.weight.ndim - 1))
        layer.bias.copy_((layer.bias - values.mean(dim=0)) * factor + mean)
    return network


@pytest.fixture(scope="module")
def small(reference: Any, images: Tensor) -> Any:
    torch.manual_seed(0)
    return _lively(_small(), reference, images)


@torch.no_grad()
def _run(module: nn.Module, images: Tensor) -> Any:
    return module(images)


@pytest.mark.parametrize(
    ("make", "lowering"),
    [
        (_small, "static"),
        (_small, "onnx"),
        (_small_v2, "static"),
        (_resnet50, "static"),
        (_mobilenet, "static"),
        (_mobilenet, "onnx"),
    ],
)
def test_torchvisions_detections_at_every_batch(
    make: Any, lowering: Any, reference: Any, images: Tensor
) -> None:
    torch.manual_seed(1)
    network = _lively(make(), reference, images)
    expected = _answers(reference, network, HOW, images)
    module = FasterRCNN(network, replace(HOW, lowering=lowering), SIZE)
    for batch in (1, 2, 5):
        outputs = _run(module, images[:batch])
        found = reference.agreement(expected[:batch], outputs)
        assert found.reached, found
        assert reference.well_formed(outputs)
    assert found.expected > 100
    assert len(outputs[2].unique()) > 3


def test_the_state_dict_has_torchvisions_keys(small: Any) -> None:
    for network, form in ((small, FasterRCNN), (_mask(), MaskRCNN), (_keypoint(), KeypointRCNN)):
        module = form(network.eval(), HOW, SIZE)
        assert set(module.state_dict()) == set(network.state_dict())
        module.load_state_dict(network.state_dict(), strict=True)


def test_a_blank_image_and_one_where_nothing_passes(small: Any, reference: Any, images: Tensor) -> None:
    blank = torch.zeros(2, 3, *SIZE)
    assert reference.well_formed(_run(FasterRCNN(small, HOW, SIZE), blank))
    outputs = _run(FasterRCNN(small, replace(HOW, score_threshold=1.0), SIZE), images[:2])
    assert reference.well_formed(outputs)
    assert outputs[3].tolist() == [0, 0]
    assert outputs[4].tolist() == [False, False]


def test_more_objects_than_rows_and_more_rows_than_objects(
    small: Any, reference: Any, images: Tensor
) -> None:
    for rows, full in ((5, True), (800, False)):
        how = replace(HOW, detections=rows)
        outputs = _run(FasterRCNN(small, how, SIZE), images[:2])
        assert reference.agreement(_answers(reference, small, how, images[:2]), outputs).reached
        assert reference.well_formed(outputs)
        assert (outputs[3] == rows).all() == full
        assert outputs[0].shape == (2, rows, 4)


def test_too_few_candidates_are_told_and_the_best_are_kept(small: Any, images: Tensor) -> None:
    many = _run(FasterRCNN(small, HOW, SIZE), images[:2])
    few = _run(FasterRCNN(small, replace(HOW, candidates=10), SIZE), images[:2])
    assert many[4].tolist() == [False, False]
    assert few[4].tolist() == [True, True]
    assert torch.equal(few[1][:, 0], many[1][:, 0])
    assert (few[3] <= 10).all()


def test_a_pooler_that_samples_by_the_box_is_refused(small: Any) -> None:
    network = _small().eval()
    network.roi_heads.box_roi_pool.sampling_ratio = 0
    with pytest.raises(ModelError, match="sampling_ratio=2"):
        FasterRCNN(network, HOW, SIZE)


def _rows(
    theirs: dict[str, Tensor], outputs: Any, image: int, name: str, place: int
) -> tuple[Tensor, Tensor]:
    """An extra output for detections that both found: torchvision's and ours, row by row."""
    boxes, scores, labels = (torch.as_tensor(outputs[index][image]) for index in range(3))
    same = (theirs["boxes"][:, None] - boxes[None]).abs().amax(dim=2) < 0.05
    same &= (theirs["scores"][:, None] - scores[None]).abs() < 1e-4
    same &= theirs["labels"][:, None] == labels[None]
    mine, yours = same.any(dim=1), same.float().argmax(dim=1)
    assert mine.float().mean() >= 0.999
    return theirs[name][mine], torch.as_tensor(outputs[place][image])[yours[mine]]


def _check_masks(expected: list[dict[str, Tensor]], outputs: Any) -> None:
    for image, theirs in enumerate(expected):
        wanted, found = _rows(theirs, outputs, image, "masks", 5)
        assert len(wanted) > 10
        torch.testing.assert_close(found, wanted[:, 0], rtol=0, atol=1e-3)


def _check_keypoints(expected: list[dict[str, Tensor]], outputs: Any) -> None:
    near, close = [], []
    for image, theirs in enumerate(expected):
        wanted, found = _rows(theirs, outputs, image, "keypoints", 5)
        assert (found[..., 2] == 1).all()
        near.append(((wanted - found).abs().amax(dim=2) < 0.1).flatten())
        wanted, found = _rows(theirs, outputs, image, "keypoints_scores", 6)
        close.append(((wanted - found).abs() < 1e-3).flatten())
    assert len(torch.cat(near)) > 50
    # The heat maps of a head without training are noise, whose peaks can be as high as one another.
    assert torch.cat(near).float().mean() > 0.97
    assert torch.cat(close).float().mean() > 0.97


@dataclass(frozen=True)
class Exported:
    """A network, and the graph of its deployable form."""

    network: Any
    path: Path


FORMS: dict[str, tuple[Any, Any]] = {
    "faster": (_small, FasterRCNN),
    "mask": (_mask, MaskRCNN),
    "keypoint": (_keypoint, KeypointRCNN),
}


@pytest.fixture(scope="module", params=list(product(FORMS, LOWERINGS)), ids="-".join)
def exported(
    request: pytest.FixtureRequest, reference: Any, images: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, Exported]:
    """A family and a lowering, exported once for all tests of it."""
    family, lowering = request.param
    make, form = FORMS[family]
    torch.manual_seed(2)
    network = _lively(make(), reference, images)
    module = form(network, replace(HOW, lowering=lowering), SIZE).eval()
    path = reference.export(module, images, tmp_path_factory.mktemp("graphs") / "m.onnx")
    return family, lowering, Exported(network, path)


def test_onnx_runtime_gives_torchvisions_detections(
    exported: tuple[str, str, Exported], reference: Any, images: Tensor
) -> None:
    family, lowering, graph = exported
    expected = _answers(reference, graph.network, HOW, images)
    for batch in (1, 2, 5):
        outputs = reference.run(graph.path, images[:batch])
        found = reference.agreement(expected[:batch], outputs)
        assert found.reached, found
        assert reference.well_formed(outputs)
        if family == "mask":
            _check_masks(expected[:batch], outputs)
        if family == "keypoint":
            _check_keypoints(expected[:batch], outputs)
    kinds = Counter(node.op_type for node in onnx.load(graph.path).graph.node)
    assert (kinds["RoiAlign"] > 0) == (kinds["NonMaxSuppression"] > 0) == (lowering == "onnx")


def test_a_static_graph_builds_as_an_engine_without_plugins_and_data_dependent_shapes(
    exported: tuple[str, str, Exported], tmp_path: Path
) -> None:
    family, lowering, graph = exported
    options = EngineOptions("rtx", targets=("sm_86",))
    if lowering == "onnx":
        with pytest.raises(BuildError):
            engine_from_onnx(graph.path, options, tmp_path / "m.engine")
        return
    build = engine_from_onnx(graph.path, options, tmp_path / "m.engine")
    kinds = {layer.kind for layer in build.network.layers}
    assert not kinds & {"PLUGIN", "PLUGIN_V2", "PLUGIN_V3", "NON_ZERO", "NMS"}
    (entry,) = build.profiles[0].inputs
    assert (entry.min[0], entry.max[0]) == (1, 8)
    shapes = {spec.name: spec.shape for spec in build.network.outputs}
    assert tuple(shapes) == FORMS[family][1].outputs
    assert shapes["boxes"] == (None, HOW.detections, 4)
