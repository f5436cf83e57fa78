"""The classic networks against the tables of their papers and the implementations that are installed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from torchvision.models.resnet import Bottleneck as TorchvisionBottleneck

from bbx.images import noise_batch, photograph_batch
from bbx.models.build import build
from bbx.models.classic import AlexNet, CifarVgg, InceptionV2, ResNet
from bbx.models.classic import inception_v2 as v2
from bbx.models.classic.layers import LocalResponseNorm
from bbx.models.construct import seeded
from bbx.models.necks import neck_backbone
from bbx.models.outline import outline
from bbx.models.registry import preset, resolve
from bbx.models.spec import ModelSpec
from bbx.types import Preprocess

META = torch.device("meta")


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def network(name: str) -> nn.Module:
    """A preset's network without numbers."""
    return outline(ModelSpec(name)).module


def sizes(module: nn.Module, nodes: str, side: int) -> list[tuple[int, ...]]:
    """Channels and side of what these nodes give, or the width of a vector."""
    seen: dict[str, torch.Tensor] = {}
    for node in nodes.split():
        module.get_submodule(node).register_forward_hook(
            lambda _module, _given, output, node=node: seen.__setitem__(node, output)
        )
    with torch.inference_mode():
        module(torch.empty(2, 3, side, side, device=next(module.parameters()).device))
    for output in seen.values():
        assert output.ndim == 2 or output.shape[2] == output.shape[3]
    return [tuple(seen[node].shape[1:3]) for node in nodes.split()]


def photographs(side: int) -> torch.Tensor:
    return torch.from_numpy(photograph_batch(Preprocess(side, side), 2))


SAME = 1e-5


def apart(own: nn.Module, other: nn.Module, images: torch.Tensor) -> float:
    """The largest difference of any answer, relative to the largest answer."""
    with torch.inference_mode():
        wanted, given = other.eval()(images), own.eval()(images)
    assert wanted.std() > 0, "equal answers to everything would agree with anything"
    return float((given - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("alexnet_2012", 60_965_224),  # "60 million parameters"; the layers of figure 2, summed by hand
        ("vgg11_cifar", 9_750_922),
        ("vgg16_cifar", 15_245_130),
        ("vgg16_bn_cifar", 15_253_578),
        ("vgg19_cifar", 20_554_826),
        ("inception_v1", 6_998_552),  # as Caffe's bvlc_googlenet without its auxiliary classifiers
        # Caffe's has 11,295,240: with 10,016 biases, and 6,696 more in a stem that is not separable.
        ("inception_v2", 11_295_240 - 10_016 - 6_696),
        ("inception_v3", 23_834_568),
        ("inception_resnet_v2", 55_843_464),
        ("resnet18_caffe", 11_689_512),
        ("resnet34_caffe", 21_797_672),
        ("resnet50_caffe", 25_557_032),
        ("resnet101_caffe", 44_549_160),
        ("resnet152_caffe", 60_192_808),
        ("resnet101_gn", 44_549_160),
    ],
)
def test_parameters(name: str, count: int) -> None:
    assert parameters(network(name)) == count


def test_the_plan_3_4_6_3_is_resnet_34_of_basic_blocks_and_resnet_50_of_bottlenecks() -> None:
    small, large = network("resnet34_caffe"), network("resnet50_caffe")
    for module in (small, large):
        assert [len(module.get_submodule(f"layer{stage}")) for stage in (1, 2, 3, 4)] == [3, 4, 6, 3]  # type: ignore[arg-type]
    assert round(parameters(small) / 1e6, 1) == 21.8
    assert round(parameters(large) / 1e6, 1) == 25.6
    for own, name in ((small, "resnet34"), (large, "resnet50")):
        assert parameters(own) == parameters(network(name))
    # Layers with weights, shortcuts apart: what the names count.
    layers = [
        [
            path
            for path, part in module.named_modules()
            if isinstance(part, nn.Conv2d | nn.Linear) and "downsample" not in path
        ]
        for module in (small, large)
    ]
    assert list(map(len, layers)) == [34, 50]


def test_layers_of_alexnet_are_those_of_its_paper() -> None:
    nodes = "conv1 pool1 conv2 pool2 conv3 conv4 conv5 pool5"
    assert sizes(network("alexnet_2012"), nodes, 227) == [
        (96, 55),
        (96, 27),
        (256, 27),
        (256, 13),
        (384, 13),
        (384, 13),
        (256, 13),
        (256, 6),
    ]
    assert sizes(network("alexnet_2012"), "fc6 fc7 fc8", 227) == [(4096,), (4096,), (1000,)]
    # Figure 2: kernels of conv2, conv4 and conv5 see the maps of their own half.
    kernels = [
        tuple(layer.weight.shape)
        for layer in network("alexnet_2012").modules()
        if hasattr(layer, "kernel_size") and isinstance(layer, nn.Conv2d)
    ]
    assert kernels == [(96, 3, 11, 11), (256, 48, 5, 5), (384, 256, 3, 3), (384, 192, 3, 3), (256, 192, 3, 3)]


def test_alexnet_starts_as_its_paper_says() -> None:
    with seeded(0):
        module = AlexNet()
    biases = {path: part.bias for path, part in module.named_modules() if hasattr(part, "bias")}
    ones = [path.partition(".")[0] for path, bias in biases.items() if bool((bias == 1).all())]
    zeros = [path.partition(".")[0] for path, bias in biases.items() if bool((bias == 0).all())]
    assert ones == ["conv2", "conv4", "conv5", "fc6", "fc7"]
    assert zeros == ["conv1", "conv3", "fc8"]
    for path in biases:
        weight = module.get_parameter(f"{path}.weight")
        assert abs(weight.mean()) < 3e-4
        assert weight.std().item() == pytest.approx(0.01, rel=0.03)


def test_layers_of_inception_v1_are_those_of_table_1() -> None:
    nodes = (
        "conv1 pool1 conv2 pool2 inception3a inception3b pool3 inception4a inception4b inception4c "
        "inception4d inception4e pool4 inception5a inception5b"
    )
    assert sizes(network("inception_v1"), nodes, 224) == [
        (64, 112), (64, 56), (192, 56), (192, 28), (256, 28), (480, 28), (480, 14), (512, 14), (512, 14),
        (512, 14), (528, 14), (832, 14), (832, 7), (832, 7), (1024, 7),
    ]  # fmt: skip
    kernels = {
        part.kernel_size
        for part in network("inception_v1").get_submodule("inception3a").modules()
        if isinstance(part, nn.Conv2d)
    }
    assert kernels == {(1, 1), (3, 3), (5, 5)}
    assert not [part for part in network("inception_v1").modules() if isinstance(part, nn.BatchNorm2d)]


def test_layers_of_inception_v2_are_those_of_figure_5() -> None:
    nodes = (
        "conv1 pool1 conv2 pool2 inception3a inception3b inception3c inception4a inception4b inception4c "
        "inception4d inception4e inception5a inception5b"
    )
    assert sizes(network("inception_v2"), nodes, 224) == [
        (64, 112), (64, 56), (192, 56), (192, 28), (256, 28), (320, 28), (576, 14), (576, 14), (576, 14),
        (608, 14), (608, 14), (1056, 7), (1024, 7), (1024, 7),
    ]  # fmt: skip


def test_pooling_and_stem_of_inception_v2_are_those_of_figure_5() -> None:
    module = network("inception_v2")
    pooled = [f"inception{name}.branch_pool.0" for name in ("3a", "3b", "4a", "4b", "4c", "4d", "5a", "5b")]
    kinds = [type(module.get_submodule(path)) for path in pooled]
    assert kinds == [nn.AvgPool2d] * 7 + [nn.MaxPool2d]
    # Separable, with eight maps for each colour.
    assert tuple(module.get_parameter("conv1.depthwise.weight").shape) == (24, 1, 7, 7)
    assert tuple(module.get_parameter("conv1.pointwise.conv.weight").shape) == (64, 24, 1, 1)


def test_inception_v2_with_the_channels_of_its_authors_later_code_has_their_count() -> None:
    """TF-Slim's own test counts 10,173,112 variables: weights, offset, mean and variance of each norm.

    Its 4c and 4d project to 96 channels after the pooling; its stem has biases and no norm.
    """
    with META:
        module = InceptionV2()
        module.inception4c = v2.Inception(576, 160, (128, 160), (128, 160), 96)
        module.inception4d = v2.Inception(576, 96, (128, 192), (160, 192), 96)
        module.inception4e = v2.Reduction(576, (128, 192), (192, 256))
        module.inception5a = v2.Inception(1024, 352, (192, 320), (160, 224), 128)
    weights = sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Conv2d))
    normed = sum(part.num_features for part in module.modules() if isinstance(part, nn.BatchNorm2d))
    assert weights + 3 * (normed - 64) + 64 == 10_173_112


def test_maps_of_inception_v3_are_those_of_its_paper() -> None:
    nodes = "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 maxpool1 maxpool2 Mixed_5d Mixed_6e Mixed_7a Mixed_7c"
    assert sizes(network("inception_v3"), nodes, 299) == [
        (32, 149), (32, 147), (64, 147), (64, 73), (192, 35), (288, 35), (768, 17), (1280, 8), (2048, 8),
    ]  # fmt: skip


def test_layers_of_the_caffe_resnets_are_those_of_table_1() -> None:
    nodes = "conv1 maxpool layer1 layer2 layer3 layer4 fc"
    stem = [(64, 112), (64, 56)]
    for depth, width in ((18, 64), (34, 64), (50, 256), (101, 256), (152, 256)):
        stages = [(width, 56), (2 * width, 28), (4 * width, 14), (8 * width, 7)]
        assert sizes(network(f"resnet{depth}_caffe"), nodes, 224) == [*stem, *stages, (1000,)]


def test_inception_v3_is_torchvisions_key_for_key() -> None:
    own = build(ModelSpec("inception_v3", weights="random", image_size=107)).module
    other = models.inception_v3(aux_logits=False, init_weights=False)
    assert list(own.state_dict()) == list(other.state_dict())
    other.load_state_dict(own.state_dict())
    assert apart(own, other, photographs(107)) <= SAME


def test_the_preprocessing_of_inception_v3_is_what_torchvision_does_inside_the_network() -> None:
    model = build(ModelSpec("inception_v3", weights="random", image_size=107))
    other = models.inception_v3(aux_logits=False, init_weights=False, transform_input=True).eval()
    other.load_state_dict(model.module.state_dict())
    with torch.inference_mode():
        given = model.module(torch.from_numpy(photograph_batch(model.preprocess, 2)))
        usual = Preprocess(107, 107, crop_pct=model.preprocess.crop_pct)
        wanted = other(torch.from_numpy(photograph_batch(usual, 2)))
    assert (given - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_inception_resnet_v2_is_timms_key_for_key() -> None:
    own = build(ModelSpec("inception_resnet_v2", weights="random", image_size=107)).module
    with META:
        other = timm.create_model("inception_resnet_v2")
    assert list(own.state_dict()) == list(other.state_dict())
    other.load_state_dict(own.state_dict(), assign=True)
    assert apart(own, other, photographs(107)) <= SAME


def test_random_weights_of_a_deep_network_without_shortcuts_do_not_magnify_rounding() -> None:
    model = build(ModelSpec("inception_v3", weights="random", image_size=107))
    assert "94 batch norms of the random weights: lifted" in model.notes
    images = torch.from_numpy(noise_batch(model.preprocess, 2, seed=1))
    rounded = copy.deepcopy(model.module)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.half().float()
    with torch.inference_mode():
        wanted, given = model.module(images), rounded(images.half().float())
    assert (given - wanted).norm() < 0.02 * wanted.norm()
    first, second = wanted
    assert (first - second).norm() > 0.1 * first.norm()


@pytest.mark.parametrize("depth", [18, 50])
def test_a_caffe_resnet_is_torchvisions_with_the_stride_moved_and_another_pooling(depth: int) -> None:
    own = build(ModelSpec(f"resnet{depth}_caffe", weights="random", image_size=75)).module
    other = models.get_model(f"resnet{depth}")
    other.load_state_dict(own.state_dict())
    other.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    for block in other.modules():
        if isinstance(block, TorchvisionBottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    assert apart(own, other, photographs(75)) <= SAME


def test_the_strides_place_matters() -> None:
    torchvisions = build(ModelSpec("resnet50", weights="random", image_size=64)).module
    with META:
        own = ResNet(50, caffe=True)
    own.load_state_dict(torchvisions.state_dict(), assign=True)
    torchvisions.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    images = photographs(64)
    with torch.inference_mode():
        given, wanted = own.eval()(images), torchvisions(images)
    assert (given - wanted).norm() > 0.1 * wanted.norm()


def test_group_norm_resnet_101_is_torchvisions_with_that_norm() -> None:
    model = build(ModelSpec("resnet101_gn", weights="random", image_size=64))
    other = models.ResNet(
        TorchvisionBottleneck, [3, 4, 23, 3], norm_layer=lambda width: nn.GroupNorm(32, width)
    )
    other.load_state_dict(model.module.state_dict())
    assert apart(model.module, other, photographs(64)) <= SAME
    # Those of the four blocks that project their shortcut are left alone.
    assert f"{33 - 4} residual branches of the random weights: damped" in model.notes


@pytest.mark.parametrize("name", ["vgg11", "vgg16", "vgg19_bn"])
def test_cifar_vgg_has_torchvisions_convolutions_under_a_narrow_head(name: str) -> None:
    own, other = network(f"{name}_cifar"), network(name)
    for mine, theirs in zip(own.features, other.features, strict=True):  # type: ignore[call-overload]
        assert (type(mine), str(mine)) == (type(theirs), str(theirs))
    linear = [key for key in own.state_dict() if key.startswith("classifier.") and key.endswith("weight")]
    # Keys and widths of the checkpoints in common use.
    assert linear == ["classifier.1.weight", "classifier.4.weight", "classifier.6.weight"]
    assert [tuple(own.get_parameter(key).shape) for key in linear] == [(512, 512), (512, 512), (10, 512)]
    assert sizes(own, "features classifier", 32) == [(512, 1), (10,)]


def test_random_weights_of_a_deep_vgg_tell_images_apart() -> None:
    with seeded(0):
        module = CifarVgg(19, batch_norm=False).eval()
    with torch.inference_mode():
        first, second = module(photographs(32))
    assert (first - second).norm() > 0.01 * first.norm()


def test_local_response_norm_is_torchs_with_the_papers_constants() -> None:
    maps = 100 * torch.randn(2, 8, 5, 7, generator=torch.Generator().manual_seed(0))
    wanted = nn.functional.local_response_norm(maps, 5, alpha=5 * 1e-4, beta=0.75, k=2)
    torch.testing.assert_close(LocalResponseNorm()(maps), wanted)


def test_local_response_norm_stays_in_the_range_of_fp16() -> None:
    maps = torch.full((1, 8, 2, 2), 5000.0)
    own = LocalResponseNorm()
    half = own(maps.half()).float()
    assert torch.isinf(maps.half().square()).all()
    torch.testing.assert_close(half, own(maps), rtol=5e-3, atol=0)


def test_published_weights_of_the_network_that_bbx_writes_again_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve("torchvision:inception_v3") is preset("inception_v3")
    assert resolve("timm:inception_resnet_v2") is preset("inception_resnet_v2")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with META:
        state = timm.create_model("inception_resnet_v2").state_dict()
    state = {key: torch.full(value.shape, 0.5, dtype=value.dtype) for key, value in state.items()}
    repository = tmp_path / "models--timm--inception_resnet_v2.tf_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    save_file(state, repository / "snapshots" / "abc" / "model.safetensors")
    model = build(ModelSpec("inception_resnet_v2", weights="pretrained"))
    assert model.weights == "pretrained"
    assert all(
        bool((value == 0.5).all())
        for value in model.module.state_dict().values()
        if value.is_floating_point()
    )


def test_the_pyramid_has_the_papers_levels_and_parameters() -> None:
    """Lin et al., 2017, section 3: 1 × 1 laterals from C2 to C5, 3 × 3 smoothing, 256 channels everywhere."""
    pyramid = neck_backbone(ModelSpec("resnet50_caffe", weights="random", image_size=64))
    widths = (256, 512, 1024, 2048)
    laterals = [(256, width, 1, 1) for width in widths]
    smoothing = [(256, 256, 3, 3)] * 4
    kernels = [tuple(part.weight.shape) for part in pyramid.fpn.modules() if isinstance(part, nn.Conv2d)]
    assert kernels == laterals + smoothing
    assert parameters(pyramid.fpn) == 256 * sum(widths) + 4 * 256 + 4 * (256 * 256 * 9 + 256) == 3_344_384
    with torch.inference_mode():
        levels = pyramid(torch.zeros(1, 3, 256, 192))
    assert [tuple(level.shape[1:]) for level in levels.values()] == [
        (256, 64, 48), (256, 32, 24), (256, 16, 12), (256, 8, 6), (256, 4, 3),
    ]  # fmt: skip
