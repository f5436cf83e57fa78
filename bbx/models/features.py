"""Backbones as pyramids of feature maps, for heads that look at more than one scale."""

from __future__ import annotations

import torch
from torch import nn

from bbx import lazy
from bbx.errors import ModelError
from bbx.models.classifier import from_library
from bbx.models.registry import resolve
from bbx.models.spec import FeatureMap, ModelSpec, Prefixed, Preset


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
    module: nn.Module = owner.create_feature_extractor(backbone, dict(zip(nodes, nodes, strict=True)))
    return module


def feature_maps(spec: ModelSpec) -> FeatureMaps:
    """The backbone of a spec as a pyramid, with the spec's weights, in eval mode.

    Presets say what they have in the zoo; a timm model outside it says so itself (`feature_info`).

    Raises:
        ModelError: the model advertises no feature maps, or as `bbx.models.classifier.from_library`.
        WeightsError: as there.
    """
    target = resolve(spec.name)
    if isinstance(target, Prefixed) and target.is_factory:
        raise ModelError(f"{spec.name} advertises no feature maps.", hint="`bbx models` lists what does.")
    module = from_library(target, spec).module
    if isinstance(target, Preset):
        return FeatureMaps(module, target.features, target.map_layout).eval()
    levels = getattr(module, "feature_info", None)
    if target.library != "timm" or not levels:
        raise ModelError(
            f"{spec.name} advertises no feature maps.", hint="Presets do: `bbx models` lists them."
        )
    features = tuple(FeatureMap(level["module"], level["num_chs"], level["reduction"]) for level in levels)
    return FeatureMaps(module, features).eval()
