"""What the tables of classifiers are written with: preprocessing, feature maps, and an entry."""

from __future__ import annotations

from typing import Any, Literal

from bbx.models.spec import FeatureMap, Preset
from bbx.types import Preprocess

HALF = (0.5, 0.5, 0.5)
_STRIDES = (2, 4, 8, 16, 32)


def crop(size: int, resize: int, interpolation: Literal["bilinear", "bicubic"] = "bilinear") -> Preprocess:
    """Resize the shorter side to `resize`, crop `size` × `size` at the centre, normalise as ImageNet."""
    return Preprocess(size, size, crop_pct=size / resize, interpolation=interpolation)


def maps(nodes: str, *channels: int) -> tuple[FeatureMap, ...]:
    """Feature maps at the space-separated nodes, each half the size of the one before, down to stride 32."""
    levels = zip(nodes.split(), channels, _STRIDES[-len(channels) :], strict=True)
    return tuple(FeatureMap(node, width, stride) for node, width, stride in levels)


def classifier(
    family: str,
    source: str,
    preprocess: Preprocess,
    features: tuple[FeatureMap, ...],
    pooled: int,
    **more: Any,
) -> Preset:
    """A classification preset, named as the library names it unless `more` says otherwise."""
    fields: dict[str, Any] = {"name": source.partition(":")[2], "min_size": 1} | more
    return Preset(
        family=family,
        source=source,
        task="classification",
        preprocess=preprocess,
        features=features,
        pooled_channels=pooled,
        **fields,
    )


VGG_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each stage, by depth (Simonyan and Zisserman, 2015, table 1)."""


def vgg_maps(convolutions: tuple[int, ...], layers: int) -> tuple[FeatureMap, ...]:
    """The pooling layer that ends each stage of `convolutions`, of `layers` layers each."""
    ends = [sum(convolutions[: stage + 1]) * layers + stage for stage in range(len(convolutions))]
    return maps(" ".join(f"features.{end}" for end in ends), 64, 128, 256, 512, 512)


_LAYERS = "layer1 layer2 layer3 layer4"
BASIC = maps(_LAYERS, 64, 128, 256, 512)
BOTTLENECK = maps(_LAYERS, 256, 512, 1024, 2048)
