"""Backbones as pyramids of feature maps, for heads that look at more than one scale."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from bbx import lazy
from bbx.errors import ModelError
from bbx.models.classifier import from_library
from bbx.models.construct import device_of
from bbx.models.parts import Parts
from bbx.models.registry import resolve
from bbx.models.spec import FeatureMap, ModelSpec, Preset

_HINT = "Choose a classifier with stages, such as resnet50, convnext_tiny or swin_t."


class FeatureMaps(nn.Module):
    """A backbone that gives its feature maps as float32 [batch, channels, height, width].

    Attributes:
        features: what `forward` returns, by node, finest first.
    """

    def __init__(self, backbone: nn.Module, features: tuple[FeatureMap, ...], layout: str = "NCHW") -> None:
        super().__init__()
        self.features = features
        self.layout = layout
        self.body = _cut(backbone, [feature.node for feature in features])

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """float32 [batch, 3, height, width] to a map for each node."""
        maps: dict[str, torch.Tensor] = self.body(images)
        if self.layout == "NCHW":
            return maps
        if self.layout == "NHWC":
            return {node: given.permute(0, 3, 1, 2) for node, given in maps.items()}
        return {
            feature.node: self._from_tokens(maps[feature.node], images, feature.stride)
            for feature in self.features
        }

    @staticmethod
    def _from_tokens(tokens: torch.Tensor, images: torch.Tensor, stride: int) -> torch.Tensor:
        patches = tokens[:, 1:].transpose(1, 2)  # without the class token
        return patches.reshape(*patches.shape[:2], images.shape[2] // stride, images.shape[3] // stride)


def _cut(backbone: nn.Module, nodes: list[str]) -> nn.Module:
    """The part of a backbone that its nodes need, as a graph module; a dict of their outputs by node."""
    # timm's own function knows which of timm's layers cannot be traced symbolically.
    library = "timm" if type(backbone).__module__.startswith("timm.") else "torchvision"
    owner = lazy.require("timm.models" if library == "timm" else "torchvision.models.feature_extraction")
    with warnings.catch_warnings():
        # Dropout makes the graphs of training and evaluation differ; the nodes' names are those of modules,
        # which both have.
        warnings.filterwarnings("ignore", message="NOTE: The nodes obtained")
        module: nn.Module = owner.create_feature_extractor(backbone, dict(zip(nodes, nodes, strict=True)))
    return module


def feature_maps(spec: ModelSpec) -> FeatureMaps:
    """The backbone of a spec as a pyramid, with the spec's weights, in eval mode.

    Presets say what they have in the zoo; a timm model outside it says so itself (`feature_info`), and a
    forward pass tells in which layout.

    Raises:
        ModelError: the model advertises no feature maps, or as `bbx.models.classifier.from_library`.
        WeightsError: as there.
    """
    target = resolve(spec.name)
    if isinstance(target, Preset) and target.features:
        return FeatureMaps(from_library(target, spec).module, target.features, target.map_layout).eval()
    if target.library == "timm":
        parts = from_library(target, spec)
        if getattr(parts.module, "feature_info", None):
            return _as_timm_says(spec.name, parts)
    raise ModelError(f"{spec.name} advertises no feature maps.", hint=_HINT)


def _as_timm_says(name: str, parts: Parts) -> FeatureMaps:
    levels: Any = parts.module.feature_info
    features = tuple(FeatureMap(level["module"], level["num_chs"], level["reduction"]) for level in levels)
    example = torch.zeros(
        1, 3, parts.preprocess.height, parts.preprocess.width, device=device_of(parts.module)
    )
    try:
        maps = FeatureMaps(parts.module, features).eval()
        with torch.inference_mode():
            maps.layout = _layout(maps(example), features)
    except (ValueError, RuntimeError, TypeError, AssertionError, AttributeError, LookupError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{name} cannot be cut at its feature maps: {reason}", hint=_HINT) from error
    return maps


def _layout(maps: dict[str, torch.Tensor], features: tuple[FeatureMap, ...]) -> str:
    """Where the channels stand in all of these maps; timm records it for few models.

    Raises:
        ValueError: neither second nor last.
    """
    shapes = [(tuple(maps[feature.node].shape), feature.channels) for feature in features]
    for layout, axis in (("NCHW", 1), ("NHWC", 3)):
        if all(len(shape) == 4 and shape[axis] == channels for shape, channels in shapes):
            return layout
    found, channels = shapes[0]
    raise ValueError(f"{features[0].node} gives {list(found)}, which is no map of {channels} channels.")
