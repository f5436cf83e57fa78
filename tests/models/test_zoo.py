"""The table of presets against what torchvision and timm say, and against real forward passes' shapes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from bbx.models.build import build
from bbx.models.heads import classifier_path
from bbx.models.registry import presets
from bbx.models.spec import ModelSpec, Preset

_CLASSIFIERS = presets("classification")
_PUBLISHED = [
    pytest.param(entry, id=entry.name)
    for entry in _CLASSIFIERS
    if not entry.weights_source.startswith("bbx:")
]
_SLIDING = [pytest.param(entry, id=entry.name) for entry in _CLASSIFIERS if entry.map_layout != "tokens"]
_SIDE = 128
_WIDER = 64


@contextlib.contextmanager
def parameters_without_memory() -> Iterator[None]:
    """Put every parameter on the meta device as it is registered: shapes, no values, no time."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, None if parameter is None else nn.Parameter(parameter.to("meta")))

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


@cache
def skeleton(entry: Preset, image_size: int | None = None) -> nn.Module:
    with parameters_without_memory():
        return build(ModelSpec(entry.name, weights="random", image_size=image_size)).module.to("meta")


def shapes(module: nn.Module, entry: Preset, side: int) -> tuple[torch.Size, list[tuple[int, int]]]:
    """Shape of the output, and (channels, side) of each advertised map."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.get_submodule(feature.node).register_forward_hook(
            lambda _module, _inputs, output, node=feature.node: seen.__setitem__(node, output)
        )
        for feature in entry.features
    ]
    with torch.inference_mode():
        output = module(torch.empty(2, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    axes = {"NCHW": (1, 2), "NHWC": (3, 1), "tokens": (2, 1)}[entry.map_layout]
    maps = [seen[feature.node].shape for feature in entry.features]
    return output.shape, [(shape[axes[0]], shape[axes[1]]) for shape in maps]


@pytest.mark.parametrize("entry", _PUBLISHED)
def test_preprocessing_is_that_of_the_published_weights(entry: Preset) -> None:
    how = entry.preprocess
    resize = round(min(how.height, how.width) / how.crop_pct)
    here = ((how.height, how.width), how.interpolation, how.mean, how.std)
    library, _, architecture = entry.weights_source.partition(":")
    if library == "timm":
        config = timm.get_pretrained_cfg(architecture)
        assert here == (config.input_size[1:], config.interpolation, config.mean, config.std)
        assert how.crop_pct == config.crop_pct
    else:
        weights = models.get_model_weights(architecture).DEFAULT.transforms()
        side = weights.crop_size[0]
        mode = weights.interpolation.value
        # These weights are for images from -1 to 1, which torchvision's network makes of its input.
        half = (0.5, 0.5, 0.5) if entry.name == "inception_v3" else None
        assert here == ((side, side), mode, half or tuple(weights.mean), half or tuple(weights.std))
        assert resize == weights.resize_size[0]


@pytest.mark.parametrize("entry", _SLIDING)
def test_feature_maps_and_pooled_channels_are_what_a_forward_pass_gives(entry: Preset) -> None:
    module = skeleton(entry)
    logits, maps = shapes(module, entry, _SIDE)
    _, wider = shapes(module, entry, _SIDE + _WIDER)
    classifier = module.get_submodule(classifier_path(module) or "")
    # Unpadded convolutions take a border off every map, so the stride shows in how a map grows.
    strides = [_WIDER / (after[1] - before[1]) for before, after in zip(maps, wider, strict=True)]
    assert logits == (2, entry.num_classes)
    assert [channels for channels, _ in maps] == [feature.channels for feature in entry.features]
    assert strides == [feature.stride for feature in entry.features]
    assert classifier.in_features == entry.pooled_channels


def test_tokens_advertise_patches() -> None:
    entry = next(entry for entry in presets() if entry.map_layout == "tokens")
    _, maps = shapes(skeleton(entry, 64), entry, 64)
    (feature,) = entry.features
    assert maps == [(feature.channels, 1 + (64 // feature.stride) ** 2)]


@pytest.mark.parametrize("entry", _SLIDING)
def test_min_size_is_the_smallest_that_works(entry: Preset) -> None:
    module = skeleton(entry)
    assert shapes(module, entry, entry.min_size)[0] == (2, entry.num_classes)
    if entry.min_size > 1:
        with pytest.raises((RuntimeError, ValueError)):
            shapes(module, entry, entry.min_size - 1)


@pytest.mark.parametrize(("name", "smallest"), [("alexnet", 63), ("googlenet", 15), ("swin_t", 4)])
def test_min_size_holds_with_real_numbers(name: str, smallest: int) -> None:
    module = build(ModelSpec(name, weights="random", image_size=smallest)).module
    with torch.inference_mode():
        assert torch.isfinite(module(torch.zeros(1, 3, smallest, smallest))).all()
        with pytest.raises(RuntimeError):
            module(torch.zeros(1, 3, smallest - 1, smallest - 1))
