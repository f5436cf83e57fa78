"""Names: what they stand for, what a wrong one is told, and what a right one costs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from bbx.errors import ModelError
from bbx.models import registry
from bbx.models.registry import preset, presets, register, resolve
from bbx.models.spec import Prefixed


def test_every_family_that_was_promised_is_there() -> None:
    names = {entry.name for entry in presets("classification")}
    promised = (
        "alexnet vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn googlenet inception_v3 "
        "inception_resnet_v2 resnet18 resnet34 resnet50 resnet101 resnet152 resnet50_gn resnext50_32x4d "
        "resnext101_32x8d resnext101_64x4d wide_resnet50_2 wide_resnet101_2 densenet121 densenet161 "
        "densenet169 densenet201 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large efficientnet_b0 "
        "efficientnet_b7 efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l efficientnet_lite1 "
        "efficientnet_lite2 convnext_tiny convnext_small convnext_base convnext_large regnet_x_400mf "
        "regnet_y_128gf vit_b_16 swin_t alexnet_2012 vgg11_cifar vgg13_cifar vgg16_cifar vgg19_cifar "
        "vgg11_bn_cifar vgg13_bn_cifar vgg16_bn_cifar vgg19_bn_cifar inception_v1 inception_v2 "
        "resnet18_caffe resnet34_caffe resnet50_caffe resnet101_caffe resnet152_caffe resnet101_gn"
    )
    assert set(promised.split()) <= names


def test_listing_and_resolving_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from bbx.models.registry import presets, resolve\n"
        "from bbx.models.spec import ModelSpec\n"
        "presets(); resolve('resnet50'); resolve('timm:convnext_atto')\n"
        "resolve('torchvision:squeezenet1_0'); resolve('my.package:factory')\n"
        "ModelSpec('resnet50').to_request()\n"
        "heavy = ('torch', 'torchvision', 'timm', 'numpy', 'pydantic', 'onnx')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_a_second_preset_of_the_same_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_presets", dict(registry._presets))
    new = register(dataclasses.replace(preset("resnet18"), name="resnet18_of_mine"))
    assert resolve("resnet18_of_mine") is new
    with pytest.raises(ModelError, match="already"):
        register(new)


def test_prefixes() -> None:
    assert resolve("timm:convnext_atto.d2_in1k") == Prefixed("timm", "convnext_atto.d2_in1k")
    factory = resolve("my.package:make")
    assert isinstance(factory, Prefixed)
    assert factory.is_factory


def test_a_librarys_name_of_a_preset_is_that_preset() -> None:
    assert resolve("torchvision:resnet18") is preset("resnet18")
    assert resolve("timm:tf_efficientnet_lite1") is preset("efficientnet_lite1")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("resnet51", "resnet50"),
        ("RESNET50", "resnet50"),
        ("convnext_atto", "timm:convnext_atto"),
        ("qqqqqqqqqqqq", "bbx models"),
        ("torchvision:resnet500", "torchvision:resnet50"),
        ("timm:convnext_atoo", "timm:convnext_atto"),
        ("torchvison:resnet50 ", "torchvision:resnet50"),
        ("some file:make", "package.module:factory"),
        ("package.module:", "package.module:factory"),
    ],
)
def test_a_wrong_name_is_told_what_to_type(wrong: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(wrong)
    assert said in str(caught.value)
