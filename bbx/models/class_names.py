"""Names of the classes of published weights, in the networks' numbering."""

from __future__ import annotations

from bbx import lazy
from bbx.types import Task

_PUBLISHED: dict[tuple[Task, int], str] = {
    ("classification", 1000): "ResNet50_Weights",
    ("detection", 91): "FasterRCNN_ResNet50_FPN_Weights",
    ("detection", 2): "KeypointRCNN_ResNet50_FPN_Weights",
    ("segmentation", 21): "DeepLabV3_ResNet50_Weights",
}
"""torchvision's weights that name the classes of ImageNet-1k, COCO, COCO's persons and PASCAL VOC."""

_BACKGROUND = ("__background__", "no person")


def published_classes(task: Task, num_classes: int | None) -> tuple[str, ...] | None:
    """What published weights with so many classes know; None where bbx knows no names for them.

    Weights of torchvision and timm with 1,000 classes were trained on ImageNet-1k, whose order is one. The
    background of a detector or segmenter is called `background`; numbers that COCO never used, `N/A`.
    """
    if num_classes is None or (task, num_classes) not in _PUBLISHED:
        return None
    torchvision = lazy.require("torchvision")
    name = _PUBLISHED[task, num_classes]
    homes = (torchvision.models, torchvision.models.detection, torchvision.models.segmentation)
    weights = next(getattr(home, name) for home in homes if hasattr(home, name))
    return tuple("background" if each in _BACKGROUND else each for each in weights.DEFAULT.meta["categories"])
