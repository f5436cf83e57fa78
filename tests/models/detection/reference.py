"""torchvision's detectors as the reference: networks that find something, their answers, and a comparison.

Random weights find nothing: `enliven` and `spread` give a network normalisation statistics and last layers
with which dozens to hundreds of varied boxes pass the thresholds, on photographs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from bbx.images import photograph_batch
from bbx.models.detection.options import DetectionOptions
from bbx.types import Preprocess

MATCHED_IOU = 0.99
MATCHED_SCORE = 1e-3


def photographs(count: int, size: tuple[int, int]) -> Tensor:
    """Normalised photographs with a little noise: float32 [count, 3, H, W]."""
    pictures = torch.from_numpy(photograph_batch(Preprocess(*size), count))
    return pictures + 0.1 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))


def resnet18_pyramid() -> nn.Module:
    """The backbone of torchvision's RetinaNet and FCOS, with the smallest ResNet."""
    return resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )


class Untransformed(nn.Module):
    """Stands for torchvision's resizing and normalisation, which are not under test."""

    def forward(self, images: list[Tensor], targets: Any = None) -> tuple[ImageList, Any]:
        return ImageList(torch.stack(list(images)), [tuple(image.shape[-2:]) for image in images]), targets

    def postprocess(self, result: list[dict[str, Tensor]], *_: Any) -> list[dict[str, Tensor]]:
        return result


def answers(network: Any, how: DetectionOptions, images: Tensor) -> list[dict[str, Tensor]]:
    """What torchvision's own forward finds with the thresholds of `how`."""
    network.transform = Untransformed()
    network.score_thresh, network.nms_thresh = how.score_threshold, how.iou_threshold
    network.detections_per_img = how.detections
    with torch.no_grad():
        found: list[dict[str, Tensor]] = network(list(images))
    return found


@torch.no_grad()
def enliven(network: Any, images: Tensor) -> None:
    """Give every BatchNorm the statistics of these images, so that signals neither vanish nor explode."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    network.head(list(network.backbone(images).values()))
    for norm in norms:
        norm.eval()


@torch.no_grad()
def spread(network: Any, images: Tensor, wanted: Mapping[nn.Conv2d, tuple[float, float]]) -> None:
    """Rescale last layers so that what they give on these images has this mean and deviation."""
    heard: dict[nn.Conv2d, list[Tensor]] = {layer: [] for layer in wanted}
    hooks = [
        layer.register_forward_hook(lambda layer, _inputs, output: heard[layer].append(output.flatten()))
        for layer in wanted
    ]
    network.head(list(network.backbone(images).values()))
    for hook in hooks:
        hook.remove()
    for layer, (mean, std) in wanted.items():
        values = torch.cat(heard[layer])
        factor = std / values.std()
        layer.weight *= factor
        layer.bias.copy_((layer.bias - values.mean()) * factor + mean)


@dataclass(frozen=True)
class Agreement:
    """How two lists of detections compare over a batch; `matched` are pairs, one to one."""

    expected: int
    matched: int
    extra: int

    @property
    def reached(self) -> bool:
        """At least 99.9 % matched, at most 0.1 % extra, of something."""
        return (
            self.expected > 0
            and self.matched >= 0.999 * self.expected
            and self.extra <= 0.001 * self.expected
        )


def agreement(expected: Sequence[Mapping[str, Tensor]], outputs: Sequence[Any]) -> Agreement:
    """Match detections by label, IoU and score; `outputs` are boxes, scores, labels, num_detections, …"""
    boxes, scores, labels, counts = (torch.as_tensor(output) for output in outputs[:4])
    assert len(expected) == len(boxes)
    wanted = matched = extra = 0
    for image, theirs in enumerate(expected):
        count = int(counts[image])
        close = _overlap(theirs["boxes"], boxes[image, :count]) >= MATCHED_IOU
        close &= (theirs["scores"][:, None] - scores[image, :count]).abs() <= MATCHED_SCORE
        close &= theirs["labels"][:, None] == labels[image, :count]
        pairs = _pairs(close)
        wanted, matched, extra = wanted + len(close), matched + pairs, extra + count - pairs
    return Agreement(wanted, matched, extra)


def _overlap(first: Tensor, second: Tensor) -> Tensor:
    """IoU, and 1 for boxes that are the same to a hundredth of a pixel: of those without area it is none."""
    same = (first[:, None] - second[None]).abs().amax(dim=-1) < 0.01
    return torch.where(same, torch.ones(()), box_iou(first, second).nan_to_num())


def _pairs(close: Tensor) -> int:
    """Rows that find a free column, each taking the first one."""
    free = torch.ones(close.shape[1], dtype=torch.bool)
    taken = 0
    for row in close:
        index = torch.nonzero(row & free)
        if len(index):
            free[index[0, 0]] = False
            taken += 1
    return taken


def well_formed(outputs: Sequence[Any]) -> bool:
    """Whether rows are sorted by score and padded as `Detections` promises, all finite."""
    boxes, scores, labels, counts = (torch.as_tensor(output) for output in outputs[:4])
    real = torch.arange(scores.shape[1])[None] < counts[:, None]
    return bool(
        boxes.isfinite().all()
        and (scores[real] > 0).all()
        and (scores.diff(dim=1) <= 0).all()
        and (labels[real] >= 0).all()
        and (labels[~real] == -1).all()
        and (scores[~real] == 0).all()
        and (boxes[~real] == 0).all()
    )


def export(module: Any, images: Tensor, path: Path) -> Path:
    """Write the ONNX graph of a detector, with a dynamic batch."""
    from bbx.exporter.lowerings import translations

    program = torch.onnx.export(
        module,
        (images[:2],),
        dynamo=True,
        input_names=["images"],
        output_names=list(module.outputs),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        custom_translation_table=translations(),
        verbose=False,
    )
    assert program is not None
    program.save(str(path))
    return path


@torch.no_grad()
def infer(module: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """What a deployable detector gives in torch."""
    outputs: tuple[Tensor, ...] = module(images)
    return outputs


FORBIDDEN = {"NON_ZERO", "NMS", "PLUGIN", "PLUGIN_V2", "PLUGIN_V3", "TRIP_LIMIT", "CONDITION"}
"""TensorRT's kinds of layers whose shape depends on data, that a plugin computes, or that loop or branch."""


def forbidden(network: Any) -> list[str]:
    """Names of the layers of a parsed TensorRT network that no detector may have."""
    return [layer.name for layer in network.layers if layer.kind in FORBIDDEN]


def run(path: Path, images: Tensor) -> list[Any]:
    """The outputs of ONNX Runtime on the CPU."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answer: list[Any] = session.run(None, {"images": images.numpy()})
    return answer
