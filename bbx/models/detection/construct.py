"""From a preset to torchvision's detector, and from that to its deployable form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import nn
from torchvision.models import detection as zoo
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from bbx.models.checkpoint import Head
from bbx.models.detection.options import DetectionOptions
from bbx.models.spec import ModelSpec, Preset
from bbx.types import TensorSpec

_MASK_SIDE = 28


def build_network(preset: Preset, spec: ModelSpec, neck: nn.Module | None) -> nn.Module:
    """A detector of torchvision with random weights, whose state dict has torchvision's keys.

    Args:
        neck: backbone and pyramid to be put in the place of the preset's own.
    """
    sizes = {"num_classes": spec.num_classes or preset.num_classes}
    if preset.num_keypoints is not None:
        sizes["num_keypoints"] = spec.num_keypoints or preset.num_keypoints
    network = _NETWORKS[preset.library](preset.architecture, sizes)
    if neck is not None:
        network.backbone = neck
    return network


def _by_torchvision(architecture: str, sizes: dict[str, int]) -> nn.Module:
    network: nn.Module = getattr(zoo, architecture)(weights=None, weights_backbone=None, **sizes)
    return network


def _by_bbx(architecture: str, sizes: dict[str, int]) -> nn.Module:
    """torchvision's Faster R-CNN on a ResNet for which it has no function: `fasterrcnn_resnet18_fpn`."""
    resnet = architecture.removeprefix("fasterrcnn_").removesuffix("_fpn")
    backbone = resnet_fpn_backbone(
        backbone_name=resnet, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    network: nn.Module = zoo.FasterRCNN(backbone, **sizes)
    return network


_NETWORKS: dict[str, Callable[[str, dict[str, int]], nn.Module]] = {
    "torchvision": _by_torchvision,
    "bbx": _by_bbx,
}


def pyramid_of(preset: Preset) -> tuple[tuple[int, ...], Literal["pool", "p6p7"]]:
    """Strides of the backbone's maps that a detector's pyramid is made of, and how it is extended."""
    if preset.family in ("RetinaNet", "FCOS"):
        return (8, 16, 32), "p6p7"
    return (4, 8, 16, 32), "pool"


def options_of(preset: Preset, spec: ModelSpec) -> DetectionOptions:
    """What was asked for, and the preset's own for the rest; `auto` lowers to `static`."""
    own = preset.detection
    assert own is not None  # the preset is a detector
    return DetectionOptions(
        score_threshold=own.score_threshold if spec.score_threshold is None else spec.score_threshold,
        iou_threshold=own.iou_threshold if spec.iou_threshold is None else spec.iou_threshold,
        candidates=spec.candidates or own.candidates,
        detections=spec.detections or own.detections,
        lowering="static" if spec.lowering == "auto" else spec.lowering,
    )


def deployable(network: nn.Module, how: DetectionOptions, size: tuple[int, int]) -> Any:
    """The batched, static inference path of a detector of torchvision, sharing its submodules.

    Args:
        network: in eval mode.
        size: height and width of the images in pixels.
    """
    from bbx.models.detection.fcos import FCOS
    from bbx.models.detection.rcnn import FasterRCNN, KeypointRCNN, MaskRCNN
    from bbx.models.detection.retinanet import RetinaNet
    from bbx.models.detection.ssd import SSD

    forms: tuple[tuple[Any, Any], ...] = (
        (zoo.MaskRCNN, MaskRCNN),
        (zoo.KeypointRCNN, KeypointRCNN),
        (zoo.FasterRCNN, FasterRCNN),
        (zoo.RetinaNet, RetinaNet),
        (zoo.FCOS, FCOS),
        (zoo.ssd.SSD, SSD),
    )
    form = next(form for theirs, form in forms if isinstance(network, theirs))
    module = form(network, how, size)
    # Read by the exporter: at 1,333 pixels half precision is a whole pixel coarse.
    module.float32_because = "works on boxes, scores and their order"
    return module


def head_of(network: Any) -> Head:
    """The layer by whose size a checkpoint of another class count is recognised."""
    if isinstance(network, zoo.FasterRCNN):
        parts = [f"roi_heads.{name}_predictor" for name in ("box", "mask", "keypoint")]
        own = tuple(part for part in parts if getattr(network.roi_heads, part.partition(".")[2], None))
        keypoints = "roi_heads.keypoint_predictor.kps_score_lowres" if parts[-1] in own else ""
        return Head("roi_heads.box_predictor.cls_score", parts=own, keypoints=keypoints)
    scores = "head.classification_head"
    if isinstance(network, zoo.ssd.SSD):
        first = network.head.classification_head.module_list[0]
        path = f"{scores}.module_list.0"
        anchors = network.anchor_generator.num_anchors_per_location()[0]
        return Head(path if isinstance(first, nn.Conv2d) else f"{path}.1", anchors, (scores,))
    anchors = network.anchor_generator.num_anchors_per_location()[0]
    return Head(f"{scores}.cls_logits", anchors, (scores,))


def output_specs(names: tuple[str, ...], how: DetectionOptions, keypoints: int) -> tuple[TensorSpec, ...]:
    """The outputs of these names.

    Args:
        keypoints: of an object; 0 where the detector finds none.
    """
    rows = (None, how.detections)
    specs = {
        "boxes": TensorSpec("boxes", "float32", (*rows, 4)),
        "scores": TensorSpec("scores", "float32", rows),
        "labels": TensorSpec("labels", "int64", rows),
        "num_detections": TensorSpec("num_detections", "int64", (None,)),
        "saturated": TensorSpec("saturated", "bool", (None,)),
        "masks": TensorSpec("masks", "float32", (*rows, _MASK_SIDE, _MASK_SIDE)),
        "keypoints": TensorSpec("keypoints", "float32", (*rows, keypoints, 3)),
        "keypoints_scores": TensorSpec("keypoints_scores", "float32", (*rows, keypoints)),
    }
    return tuple(specs[name] for name in names)
