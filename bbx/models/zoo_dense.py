"""Presets that answer for places in the image: detectors and segmenters. One entry each, as in the zoo.

Thresholds and numbers of detections are torchvision's own, which tests compare. `candidates` is bbx's: enough
for what trained detectors pass on photographs, and below the 3,840 that TensorRT's top-K takes.
"""

from __future__ import annotations

from dataclasses import replace

from bbx.models.spec import DetectionDefaults, Preset
from bbx.types import Preprocess

_COCO_CLASSES = 91
_PERSON_CLASSES = 2
_PERSON_KEYPOINTS = 17
_VOC_CLASSES = 21

_RCNN = DetectionDefaults(score_threshold=0.05, iou_threshold=0.5, candidates=1000, detections=100)
_RETINANET = DetectionDefaults(score_threshold=0.05, iou_threshold=0.5, candidates=2000, detections=300)
_FCOS = DetectionDefaults(score_threshold=0.2, iou_threshold=0.6, candidates=1000, detections=100)
_SSD = DetectionDefaults(score_threshold=0.01, iou_threshold=0.45, candidates=2000, detections=200)
_SSDLITE = DetectionDefaults(score_threshold=0.001, iou_threshold=0.55, candidates=3000, detections=300)


def _letterboxed(side: int) -> Preprocess:
    return Preprocess(side, side, fit="letterbox")


def _on_pyramid(
    family: str,
    name: str,
    source: str,
    detection: DetectionDefaults,
    backbone: str | None,
    *,
    side: int = 800,
) -> Preset:
    """A detector on a feature pyramid, whose coarsest map that the backbone gives has stride 32."""
    return Preset(
        name=name,
        family=family,
        source=source,
        task="detection",
        preprocess=_letterboxed(side),
        min_size=64,
        size_multiple=32,
        num_classes=_COCO_CLASSES,
        backbone=backbone,
        detection=detection,
    )


_FASTER = tuple(
    _on_pyramid("Faster R-CNN", f"fasterrcnn_{name}", source, _RCNN, backbone, side=side)
    for name, source, backbone, side in (
        ("r18_fpn", "bbx:fasterrcnn_resnet18_fpn", "resnet18", 800),
        ("r34_fpn", "bbx:fasterrcnn_resnet34_fpn", "resnet34", 800),
        ("r50_fpn", "torchvision:fasterrcnn_resnet50_fpn", "resnet50", 800),
        ("r50_fpn_v2", "torchvision:fasterrcnn_resnet50_fpn_v2", "resnet50", 800),
        ("r101_fpn", "bbx:fasterrcnn_resnet101_fpn", "resnet101", 800),
        (
            "mobilenet_v3_large_fpn",
            "torchvision:fasterrcnn_mobilenet_v3_large_fpn",
            None,
            800,
        ),
        (
            "mobilenet_v3_large_320_fpn",
            "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",
            None,
            320,
        ),
    )
)

_OTHER_TWO_STAGE = (
    _on_pyramid("Mask R-CNN", "maskrcnn_r50_fpn", "torchvision:maskrcnn_resnet50_fpn", _RCNN, "resnet50"),
    _on_pyramid(
        "Mask R-CNN", "maskrcnn_r50_fpn_v2", "torchvision:maskrcnn_resnet50_fpn_v2", _RCNN, "resnet50"
    ),
    replace(
        _on_pyramid(
            "Keypoint R-CNN",
            "keypointrcnn_r50_fpn",
            "torchvision:keypointrcnn_resnet50_fpn",
            _RCNN,
            "resnet50",
        ),
        num_classes=_PERSON_CLASSES,
        num_keypoints=_PERSON_KEYPOINTS,
    ),
)

_ONE_STAGE = (
    _on_pyramid(
        "RetinaNet", "retinanet_r50_fpn", "torchvision:retinanet_resnet50_fpn", _RETINANET, "resnet50"
    ),
    _on_pyramid(
        "RetinaNet", "retinanet_r50_fpn_v2", "torchvision:retinanet_resnet50_fpn_v2", _RETINANET, "resnet50"
    ),
    _on_pyramid("FCOS", "fcos_r50_fpn", "torchvision:fcos_resnet50_fpn", _FCOS, "resnet50"),
    Preset(
        name="ssd300_vgg16",
        family="SSD",
        source="torchvision:ssd300_vgg16",
        task="detection",
        # Caffe's mean, and bytes that are only shifted.
        preprocess=Preprocess(
            300, 300, fit="stretch", mean=(0.48235, 0.45882, 0.40784), std=(1 / 255, 1 / 255, 1 / 255)
        ),
        min_size=300,
        num_classes=_COCO_CLASSES,
        detection=_SSD,
        fixed_size=True,
    ),
    Preset(
        name="ssdlite320_mobilenet_v3_large",
        family="SSD",
        source="torchvision:ssdlite320_mobilenet_v3_large",
        task="detection",
        preprocess=Preprocess(320, 320, fit="stretch", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        min_size=320,
        num_classes=_COCO_CLASSES,
        detection=_SSDLITE,
        fixed_size=True,
    ),
)

_SEGMENTERS = tuple(
    Preset(
        name=name,
        family=family,
        source=f"{library}:{architecture}",
        task="segmentation",
        preprocess=_letterboxed(side),
        min_size=64,
        size_multiple=multiple,
        num_classes=_VOC_CLASSES,
        backbone=backbone,
    )
    for family, name, library, architecture, side, multiple, backbone in (
        ("FCN", "fcn_resnet50", "torchvision", "fcn_resnet50", 520, 8, None),
        ("FCN", "fcn_resnet101", "torchvision", "fcn_resnet101", 520, 8, None),
        ("DeepLabV3", "deeplabv3_resnet50", "torchvision", "deeplabv3_resnet50", 520, 8, None),
        ("DeepLabV3", "deeplabv3_resnet101", "torchvision", "deeplabv3_resnet101", 520, 8, None),
        (
            "DeepLabV3",
            "deeplabv3_mobilenet_v3_large",
            "torchvision",
            "deeplabv3_mobilenet_v3_large",
            520,
            8,
            None,
        ),
        ("LR-ASPP", "lraspp_mobilenet_v3_large", "torchvision", "lraspp_mobilenet_v3_large", 520, 8, None),
        ("U-Net", "unet_resnet34", "bbx", "unet", 512, 32, "resnet34"),
        ("Semantic FPN", "semantic_fpn_resnet50", "bbx", "semantic_fpn", 512, 32, "resnet50"),
    )
)

DENSE: tuple[Preset, ...] = (*_FASTER, *_OTHER_TWO_STAGE, *_ONE_STAGE, *_SEGMENTERS)
"""Every detector and segmenter, in the order in which `bbx models` lists them."""
