"""Options of a model: validated when they are made, and the same after a trip through JSON."""

from __future__ import annotations

import json

import pytest

from bbx.errors import ModelError, UsageError
from bbx.models.spec import ModelSpec


def test_round_trip_through_json() -> None:
    spec = ModelSpec(
        "vgg11", head="mlp", num_classes=7, image_size=64, weights="w.pth", seed=3, input="uint8"
    )
    assert ModelSpec.from_request(json.loads(json.dumps(spec.to_request()))) == spec


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="num_classes"):
        ModelSpec.from_request({"name": "resnet18", "num_clases": 3})


def test_a_request_without_a_name() -> None:
    with pytest.raises(UsageError, match="name"):
        ModelSpec.from_request({"seed": 1})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"head": "liner"}, "linear"),
        ({"input": "float16"}, "float32"),
        ({"num_classes": 0}, "--num-classes"),
        ({"image_size": -1}, "--image-size"),
        ({"image_size": 2.5}, "--image-size"),
        ({"seed": -1}, "--seed"),
        ({"weights": ""}, "pretrained"),
        ({"name": ""}, "bbx models"),
    ],
)
def test_impossible_values_say_what_is_possible(options: dict[str, object], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        ModelSpec.from_request({"name": "resnet18"} | options)


def test_pooled_features_have_no_classes() -> None:
    with pytest.raises(UsageError, match="num-classes"):
        ModelSpec("resnet18", head="none", num_classes=10)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("resnet50", "resnet50"),
        ("timm:convnext_atto", "timm-convnext_atto"),
        ("timm:convnext_atto.d2_in1k", "timm-convnext_atto-d2_in1k"),
        ("mypkg.mod:factory", "mypkg-mod-factory"),
    ],
)
def test_slug_is_a_file_stem(name: str, slug: str) -> None:
    assert ModelSpec(name).slug == slug
