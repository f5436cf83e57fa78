"""From a segmenter's name to its module, and to the model that it must agree with."""

from __future__ import annotations

from torch import nn
from torchvision.models import get_model

from bbx.errors import ModelError, UsageError, did_you_mean
from bbx.models.features import feature_maps
from bbx.models.necks import neck_backbone, select_levels
from bbx.models.segmentation.base import Segmenter
from bbx.models.segmentation.by_torchvision import LiteRASPP, TorchvisionSegmenter
from bbx.models.segmentation.semantic_fpn import SemanticFPN
from bbx.models.segmentation.unet import STRIDES, UNet
from bbx.models.spec import ModelSpec

WHOLE = (
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)
"""torchvision's segmenters, each with a backbone of its own."""

DECODERS = ("unet", "semantic_fpn")
"""Segmenters on a backbone of the user's choice."""


def segmenter(
    architecture: str,
    *,
    backbone: ModelSpec | None = None,
    num_classes: int,
    size: tuple[int, int],
    argmax: bool = False,
) -> Segmenter:
    """Build a segmenter, in eval mode.

    All weights but those of `backbone` are drawn from torch's generator.

    Args:
        architecture: one of `WHOLE` or `DECODERS`.
        backbone: for a decoder, the model whose feature maps it looks at.
        num_classes: with the background, where the data set has one.
        size: height and width of the input in pixels.
        argmax: give labels, not logits.

    Raises:
        ModelError: there is no such architecture, or the backbone has no pyramid.
        UsageError: a backbone is missing or too many, or `argmax` over one class.
        WeightsError: the backbone's weights cannot be had or do not fit.
    """
    if architecture not in (*WHOLE, *DECODERS):
        hint = did_you_mean(architecture, (*WHOLE, *DECODERS))
        raise ModelError(f"There is no segmenter {architecture!r}.", hint=hint)
    if argmax and num_classes == 1:
        raise UsageError(
            "--argmax over one class gives the same label everywhere.", hint="Leave --argmax out."
        )
    if architecture in WHOLE:
        if backbone is not None:
            raise UsageError(
                f"{architecture} has a backbone of its own, and {backbone.name} was asked for.",
                hint=f"Leave --backbone out, or choose {' or '.join(DECODERS)}.",
            )
        return _by_torchvision(architecture, num_classes, size, argmax=argmax).eval()
    if backbone is None:
        raise UsageError(f"{architecture} needs a backbone.", hint="Type: --backbone resnet50, or another.")
    return _decoder(architecture, backbone, num_classes, size, argmax=argmax).eval()


def reference(module: Segmenter) -> nn.Module | None:
    """torchvision's own model with the same weights, in eval mode; it gives logits as `out` of a dict.

    None where torchvision has no such model.
    """
    if not isinstance(module, TorchvisionSegmenter):
        return None
    network = _network(module.architecture, module.num_classes)
    network.load_state_dict(module.state_dict())
    return network.eval()


def _network(architecture: str, num_classes: int) -> nn.Module:
    network: nn.Module = get_model(architecture, weights=None, weights_backbone=None, num_classes=num_classes)
    return network


def _by_torchvision(
    architecture: str, num_classes: int, size: tuple[int, int], *, argmax: bool
) -> TorchvisionSegmenter:
    kind = LiteRASPP if architecture.startswith("lraspp") else TorchvisionSegmenter
    return kind(
        _network(architecture, num_classes),
        architecture,
        size=size,
        num_classes=num_classes,
        argmax=argmax,
    )


def _decoder(
    architecture: str, backbone: ModelSpec, num_classes: int, size: tuple[int, int], *, argmax: bool
) -> Segmenter:
    if architecture == "semantic_fpn":
        pyramid = neck_backbone(backbone, extra="none")
        return SemanticFPN(pyramid, size=size, num_classes=num_classes, argmax=argmax)
    maps = feature_maps(backbone)
    levels = select_levels(backbone.name, maps.features, STRIDES)
    return UNet(maps, levels, size=size, num_classes=num_classes, argmax=argmax)
