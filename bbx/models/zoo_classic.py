"""Classifiers that bbx defines itself, from the papers (`bbx.models.classic`). One entry each, as in the zoo.

Where weights are published that fit (`published`), the preprocessing is theirs; else it is that of the paper
or of the training recipe in common use.
"""

from __future__ import annotations

from bbx.models.spec import Preset
from bbx.models.zoo_entries import BASIC, BOTTLENECK, HALF, VGG_STAGES, classifier, crop, maps, vgg_maps
from bbx.types import Preprocess

_ALEXNET = (
    classifier(
        "AlexNet",
        "bbx:AlexNet",
        # The paper subtracts a mean and leaves the scale of bytes.
        Preprocess(227, 227, crop_pct=227 / 256, std=(1 / 255, 1 / 255, 1 / 255)),
        maps("conv1 pool1 pool2 pool5", 96, 96, 256, 256),
        4096,
        name="alexnet_2012",
        min_size=67,
    ),
)

_CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
_CIFAR_STD = (0.2470, 0.2435, 0.2616)

_VGG = tuple(
    classifier(
        "VGG",
        "bbx:CifarVgg",
        Preprocess(32, 32, crop_pct=1.0, mean=_CIFAR_MEAN, std=_CIFAR_STD),
        vgg_maps(stages, layers),
        512,
        name=f"vgg{depth}{suffix}_cifar",
        min_size=32,
        num_classes=10,
        options=(("depth", depth), ("batch_norm", layers == 3)),
    )
    for depth, stages in VGG_STAGES.items()
    for suffix, layers in (("", 2), ("_bn", 3))
)

_INCEPTION = (
    classifier(
        "Inception",
        "bbx:InceptionV1",
        crop(224, 256),
        maps("conv1 conv2 inception3b inception4e inception5b", 64, 192, 480, 832, 1024),
        1024,
        name="inception_v1",
        min_size=31,
    ),
    classifier(
        "Inception",
        "bbx:InceptionV2",
        crop(224, 256),
        maps("conv1 conv2 inception3b inception4d inception5b", 64, 192, 320, 608, 1024),
        1024,
        name="inception_v2",
    ),
    classifier(
        "Inception",
        "bbx:InceptionV3",
        Preprocess(299, 299, crop_pct=299 / 342, mean=HALF, std=HALF),
        maps("Conv2d_2b_3x3 Conv2d_4a_3x3 Mixed_5d Mixed_6e Mixed_7c", 64, 192, 288, 768, 2048),
        2048,
        name="inception_v3",
        min_size=75,
        published="torchvision:inception_v3",
    ),
    classifier(
        "Inception",
        "bbx:InceptionResNetV2",
        Preprocess(299, 299, crop_pct=0.8975, interpolation="bicubic", mean=HALF, std=HALF),
        maps("conv2d_2b conv2d_4a repeat repeat_1 conv2d_7b", 64, 192, 320, 1088, 1536),
        1536,
        name="inception_resnet_v2",
        min_size=75,
        published="timm:inception_resnet_v2",
    ),
)

_RESNET = (
    *(
        classifier(
            "ResNet",
            "bbx:ResNet",
            crop(224, 256),
            levels,
            levels[-1].channels,
            name=f"resnet{depth}_caffe",
            min_size=3,
            options=(("depth", depth), ("caffe", True)),
        )
        for depth, levels in (
            (18, BASIC),
            (34, BASIC),
            (50, BOTTLENECK),
            (101, BOTTLENECK),
            (152, BOTTLENECK),
        )
    ),
    classifier(
        "ResNet",
        "bbx:ResNet",
        crop(224, 256),
        BOTTLENECK,
        2048,
        name="resnet101_gn",
        options=(("depth", 101), ("caffe", False), ("norm", "group")),
    ),
)

CLASSIC: tuple[Preset, ...] = (*_ALEXNET, *_VGG, *_INCEPTION, *_RESNET)
"""Every classic network, in the order in which `bbx models` lists them."""
