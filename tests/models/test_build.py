"""Built models: heads, sizes, seeds, bytes as input, and that they can be exported."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
import torch
from torch import nn

from bbx.errors import ModelError
from bbx.images import photograph_batch
from bbx.models.build import Model, build
from bbx.models.features import feature_maps
from bbx.models.spec import ModelSpec
from bbx.types import TensorSpec


def random(name: str, **options: object) -> Model:
    return build(ModelSpec.from_request({"name": name, "weights": "random"} | options))


def run(model: Model, batch: int = 2) -> torch.Tensor:
    with torch.inference_mode():
        return model.module(torch.from_numpy(photograph_batch(model.preprocess, batch)))


def digest(module: nn.Module) -> str:
    content = b"".join(value.numpy().tobytes() for value in module.state_dict().values())
    return hashlib.sha256(content).hexdigest()


def test_a_model_says_what_it_takes_and_gives() -> None:
    model = random("resnet18")
    assert model.inputs == (TensorSpec("images", "float32", (None, 3, 224, 224)),)
    assert model.outputs == (TensorSpec("logits", "float32", (None, 1000)),)
    assert model.weights == "random"
    assert not any(part.training for part in model.module.modules())
    assert run(model).shape == (2, 1000)


@pytest.mark.parametrize(
    ("name", "pooled"),
    [
        ("resnet18", 512),
        ("mobilenet_v3_small", 1024),
        ("torchvision:squeezenet1_1", 512),
        ("timm:resnet10t", 512),
        ("timm:convnext_atto", 320),
        ("timm:deit_tiny_distilled_patch16_224", 192),
    ],
)
@pytest.mark.parametrize(
    ("head", "classes"), [("linear", None), ("linear", 7), ("mlp", None), ("mlp", 5), ("none", None)]
)
def test_every_head_gives_what_it_advertises(name: str, pooled: int, head: str, classes: int | None) -> None:
    if "distilled" in name and head == "mlp":
        with pytest.raises(ModelError, match="--head linear"):
            random(name, head=head, num_classes=classes)
        return
    small = {} if "patch" in name else {"image_size": 64}
    model = random(name, head=head, num_classes=classes, **small)
    width = pooled if head == "none" else classes or 1000
    (output,) = model.outputs
    assert output == TensorSpec("features" if head == "none" else "logits", "float32", (None, width))
    assert run(model).shape == (2, width)


def test_a_native_head_keeps_the_librarys_keys() -> None:
    from torchvision.models import resnet18

    for classes in (None, 1000, 12):
        keys = random("resnet18", num_classes=classes).module.state_dict().keys()
        assert keys == resnet18().state_dict().keys()


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_left_out(name: str) -> None:
    model = random(name, image_size=96)
    assert not [key for key in model.module.state_dict() if key.lower().startswith("aux")]
    assert run(model).shape == (2, 1000)


def test_the_seed_decides_and_the_callers_generator_does_not_notice() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, again, other = (
        digest(random("mobilenet_v3_small", num_classes=5, seed=seed).module) for seed in (4, 4, 5)
    )
    assert torch.equal(torch.rand(3), expected)
    assert first == again
    assert first != other


def test_another_process_draws_the_same_weights() -> None:
    code = (
        "import hashlib\nfrom bbx.models.build import build\nfrom bbx.models.spec import ModelSpec\n"
        "model = build(ModelSpec('timm:resnet10t', weights='random', seed=2, head='mlp'))\n"
        "values = model.module.state_dict().values()\n"
        "print(hashlib.sha256(b''.join(v.numpy().tobytes() for v in values)).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == digest(random("timm:resnet10t", seed=2, head="mlp").module)


def test_another_number_of_threads_draws_nearly_the_same_weights() -> None:
    usual = torch.get_num_threads()
    models = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            models.append(random("efficientnet_b0"))
        torch.set_num_threads(1)
        one, two = map(run, models)
    finally:
        torch.set_num_threads(usual)
    # A fifth of what parity of FP32 allows: a network made here passes elsewhere.
    assert ((one - two).norm(dim=1) / one.norm(dim=1)).max() < 2e-5


def test_bytes_give_the_same_logits_as_preprocessed_images() -> None:
    floats, raw = random("resnet18", image_size=96), random("resnet18", image_size=96, input="uint8")
    assert raw.inputs == (TensorSpec("images", "uint8", (None, 96, 96, 3)),)
    assert photograph_batch(raw.preprocess, 2).dtype == "uint8"
    torch.testing.assert_close(run(raw), run(floats), rtol=1e-4, atol=1e-5)


def test_byte_input_survives_torch_export() -> None:
    model = random("mobilenet_v3_small", image_size=64, input="uint8")
    images = torch.from_numpy(photograph_batch(model.preprocess, 3))
    batch = {"images": {0: torch.export.Dim("batch", min=1, max=64)}}
    exported = torch.export.export(model.module, (images[:2],), dynamic_shapes=batch).module()
    with torch.inference_mode():
        torch.testing.assert_close(exported(images), model.module(images))


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("alexnet", 62, "--image-size 63"),
        ("inception_v3", 74, "--image-size 75"),
        ("vit_b_16", 100, "--image-size 96, or 112"),
        ("torchvision:squeezenet1_1", 8, "8x8"),
        ("torchvision:vit_b_32", 100, "image size 100"),
        ("torchvision:swin_v2_t", 1, "1x1"),
        ("timm:vit_tiny_patch16_224", 8, "8"),
    ],
)
def test_an_impossible_image_size_says_what_is_possible(name: str, size: int, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        random(name, image_size=size)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "size"), [("vit_b_16", 64), ("swin_t", 96), ("timm:vit_tiny_patch16_224", 64)]
)
def test_transformers_take_another_image_size(name: str, size: int) -> None:
    model = random(name, image_size=size)
    assert model.inputs[0].shape == (None, 3, size, size)
    assert run(model).shape == (2, 1000)


@pytest.mark.parametrize("weights", ["auto", "random"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvision:channel_shuffle", "no model 'channel_shuffle' for images"),
        ("timm:checkpoint_filter_fn", "no model 'checkpoint_filter_fn'"),
        ("timm:resnet18.a1_in1kk", "Nearest: a1_in1k"),
    ],
)
def test_names_that_only_the_library_can_refuse(name: str, said: str, weights: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(ModelSpec(name, weights=weights))
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "vit_b_16", "efficientnet_lite1", "timm:resnet10t"])
def test_feature_maps_are_channels_first_and_as_advertised(name: str) -> None:
    body = feature_maps(ModelSpec(name, weights="random", image_size=64))
    with torch.inference_mode():
        maps = body(torch.zeros(2, 3, 64, 64))
    assert [tuple(given.shape) for given in maps.values()] == [
        (2, feature.channels, 64 // feature.stride, 64 // feature.stride) for feature in body.features
    ]
    assert list(maps) == [feature.node for feature in body.features]


def test_tokens_become_the_map_of_their_patches() -> None:
    spec = ModelSpec("vit_b_16", weights="random", image_size=32)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    body, network = feature_maps(spec), build(spec).module
    network.get_submodule("encoder.ln").register_forward_hook(lambda _m, _i, output: seen.append(output))
    with torch.inference_mode():
        (patches,) = body(images).values()
        network(images)
    assert torch.allclose(patches[0, :, 0, 1], seen[0][0, 2], atol=1e-5)
    assert torch.allclose(patches[0, :, 1, 0], seen[0][0, 3], atol=1e-5)


def test_a_model_without_feature_maps_says_so() -> None:
    with pytest.raises(ModelError, match="advertises no feature maps"):
        feature_maps(ModelSpec("torchvision:squeezenet1_1", weights="random", image_size=64))
