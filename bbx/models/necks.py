"""The feature pyramid network as a neck for any backbone that advertises its maps (Lin et al., 2017)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from bbx.errors import ModelError
from bbx.models.features import FeatureMaps, feature_maps
from bbx.models.spec import FeatureMap, ModelSpec

Extra = Literal["none", "pool", "p6p7"]
"""Levels coarser than the backbone's: none, one by subsampling (R-CNN), or two by convolutions on the
coarsest level of the pyramid (RetinaNet, FCOS)."""

CHANNELS = 256
"""Width of the pyramid, on every level (Lin et al., 2017, section 3)."""

_STRIDES: dict[Extra, tuple[int, ...]] = {
    "none": (4, 8, 16, 32),
    "pool": (4, 8, 16, 32),
    "p6p7": (8, 16, 32),  # stride 4 costs more than all others and finds little (Lin et al., 2017b)
}
_EXTRA_NAMES: dict[Extra, tuple[str, ...]] = {"none": (), "pool": ("pool",), "p6p7": ("p6", "p7")}


class PyramidBackbone(nn.Module):
    """A backbone under a feature pyramid, with the contract of torchvision's `BackboneWithFPN`.

    torchvision's detectors take it as their `backbone`. Their anchor generator and box pooler must be made
    for its levels where these are not torchvision's own five (`names`, `strides`).

    Attributes:
        levels: maps of the backbone that the pyramid stands on, finest first.
        names: of the maps that `forward` gives, finest first: `0`, `1`, …, then `pool` or `p6` and `p7`.
        strides: input pixels for one step in each of these maps.
        out_channels: of each of these maps.
    """

    def __init__(
        self, maps: FeatureMaps, levels: tuple[FeatureMap, ...], *, extra: Extra, out_channels: int = CHANNELS
    ) -> None:
        super().__init__()
        self.levels = levels
        self.out_channels = out_channels
        self.names = (*map(str, range(len(levels))), *_EXTRA_NAMES[extra])
        coarsest = levels[-1].stride
        self.strides = (
            *(level.stride for level in levels),
            *(coarsest << step for step, _ in enumerate(_EXTRA_NAMES[extra], start=1)),
        )
        self.body = maps
        self.fpn = FeaturePyramidNetwork(
            [level.channels for level in levels],
            out_channels,
            extra_blocks=_extra_blocks(extra, out_channels),
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """float32 [batch, 3, height, width] to `[batch, out_channels, …]` for each of `names`, in order."""
        found = self.body(images)
        maps: dict[str, Tensor] = self.fpn(
            {str(index): found[level.node] for index, level in enumerate(self.levels)}
        )
        return maps


def _extra_blocks(extra: Extra, channels: int) -> ExtraFPNBlock | None:
    match extra:
        case "pool":
            return LastLevelMaxPool()
        case "p6p7":
            return LastLevelP6P7(channels, channels)
        case _:
            return None


def select_levels(
    name: str, features: tuple[FeatureMap, ...], strides: tuple[int, ...]
) -> tuple[FeatureMap, ...]:
    """The maps at these strides, finest first; of several maps at one stride, the deepest.

    Args:
        name: of the backbone, for the message.
        features: what it advertises, in the order in which it computes them.

    Raises:
        ModelError: it has fewer than two of them.
    """
    deepest = {feature.stride: feature for feature in features}
    chosen = tuple(deepest[stride] for stride in sorted(strides) if stride in deepest)
    if len(chosen) < 2:
        wanted, has = (", ".join(map(str, sorted(values))) for values in (strides, deepest))
        raise ModelError(
            f"{name} has feature maps at stride {has}, and a pyramid needs at least two of {wanted}.",
            hint="Choose a backbone with stages, such as resnet50, convnext_tiny or swin_t.",
        )
    return chosen


def neck_backbone(
    spec: ModelSpec, *, extra: Extra = "pool", strides: tuple[int, ...] = (), out_channels: int = CHANNELS
) -> PyramidBackbone:
    """The backbone of a spec, with the spec's weights, under a new pyramid; in eval mode.

    The pyramid's weights are drawn from torch's generator.

    Args:
        strides: of the backbone's maps to use, where it has them; empty for what the kind of `extra` is
            used with: 4 to 32, or 8 to 32 for `p6p7`.

    Raises:
        ModelError: fewer than two of its maps have such strides, or as `bbx.models.features.feature_maps`.
        WeightsError: as there.
    """
    maps = feature_maps(spec)
    levels = select_levels(spec.name, maps.features, strides or _STRIDES[extra])
    return PyramidBackbone(maps, levels, extra=extra, out_channels=out_channels).eval()
