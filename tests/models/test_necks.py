"""The feature pyramid on backbones of every kind, under torchvision's own detectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from bbx.errors import ModelError
from bbx.exporter.engine_options import EngineOptions
from bbx.exporter.onnx_options import OnnxOptions
from bbx.exporter.to_engine import engine_from_onnx
from bbx.exporter.to_onnx import onnx_from_module
from bbx.images import photograph_batch
from bbx.models.necks import PyramidBackbone, neck_backbone, select_levels
from bbx.models.spec import FeatureMap, ModelSpec
from bbx.types import Preprocess, TensorSpec

_BACKBONES = ("resnet18", "mobilenet_v3_large", "convnext_tiny", "swin_t", "timm:convnext_atto")
_SIDE = 128


def neck(name: str, **options: object) -> PyramidBackbone:
    torch.manual_seed(0)
    return neck_backbone(ModelSpec(name, weights="random", image_size=64), **options)  # type: ignore[arg-type]


def untaught(module: torch.nn.Module) -> list[str]:
    """Parameters that the last step of training gave no gradient; zero will do in the body.

    Stochastic depth skips some of its blocks.
    """
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is None or (name.startswith("fpn.") and not parameter.grad.any())
    ]


def train_one_step(network: torch.nn.Module) -> None:
    """Train on one box, the same in two images."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    target = {"boxes": torch.tensor([[20.0, 30.0, 90.0, 100.0]]), "labels": torch.tensor([1])}
    images = list(torch.from_numpy(photograph_batch(Preprocess(_SIDE, _SIDE), 2)))
    losses = network(images, [target, target])
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    optimizer.step()


@pytest.mark.parametrize("name", _BACKBONES)
def test_faster_rcnn_runs_and_trains_on(name: str) -> None:
    backbone = neck(name)
    assert backbone.names == ("0", "1", "2", "3", "pool")
    assert backbone.strides == (4, 8, 16, 32, 64)
    network = FasterRCNN(backbone, num_classes=3, min_size=_SIDE, max_size=_SIDE).eval()
    images = torch.from_numpy(photograph_batch(Preprocess(_SIDE, _SIDE), 2))
    with torch.inference_mode():
        maps = backbone(images)
        found = network(list(images))
    assert tuple(maps) == backbone.names
    assert [tuple(each.shape) for each in maps.values()] == [
        (2, 256, _SIDE // stride, _SIDE // stride) for stride in backbone.strides
    ]
    assert [set(each) for each in found] == [{"boxes", "labels", "scores"}] * 2
    train_one_step(network)
    assert untaught(backbone) == []


@pytest.mark.parametrize("kind", [RetinaNet, FCOS])
def test_one_stage_detectors_run_and_train_on_the_extended_pyramid(kind: type[torch.nn.Module]) -> None:
    backbone = neck("resnet18", extra="p6p7")
    assert backbone.names == ("0", "1", "2", "p6", "p7")
    assert backbone.strides == (8, 16, 32, 64, 128)
    network = kind(backbone, num_classes=3, min_size=_SIDE, max_size=_SIDE).eval()
    with torch.inference_mode():
        assert len(network([torch.rand(3, _SIDE, _SIDE)])) == 1
    train_one_step(network)
    assert untaught(backbone) == []


def test_maps_are_torchvisions_bit_for_bit() -> None:
    theirs = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d
    ).eval()
    own = neck("resnet18")
    theirs.load_state_dict(
        {key.replace("body.body.", "body."): value for key, value in own.state_dict().items()}
    )
    images = torch.from_numpy(photograph_batch(Preprocess(100, 132), 2))
    with torch.inference_mode():
        given, wanted = own(images), theirs(images)
    assert list(given) == list(wanted)
    for name, each in given.items():
        assert each.std() > 0
        assert torch.equal(each, wanted[name])


@pytest.mark.parametrize(("extra", "size"), [("pool", (96, 128)), ("p6p7", (100, 132))])
def test_the_graph_takes_any_batch_and_compiles(tmp_path: Path, extra: str, size: tuple[int, int]) -> None:
    class Maps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = neck("resnet18", extra=extra)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.backbone(images).values())

    module, path = Maps().eval(), tmp_path / "maps.onnx"
    images = TensorSpec("images", "float32", (None, 3, *size))
    outputs = tuple(f"map{index}" for index, _ in enumerate(module.backbone.names))
    written = onnx_from_module(module, (images,), outputs, OnnxOptions(exporter="dynamo"), path)
    assert [None not in spec.shape[1:] for spec in written.outputs] == [True] * len(outputs)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        feed = photograph_batch(Preprocess(*size), batch)
        with torch.inference_mode():
            wanted = module(torch.from_numpy(feed))
        for got, want in zip(session.run(None, {"images": feed}), wanted, strict=True):
            assert got.shape == want.shape
            assert np.abs(got - want.numpy()).max() <= 1e-4 * want.abs().max()
    build = engine_from_onnx(path, EngineOptions("rtx", targets=("sm_86",)), tmp_path / "maps.engine")
    assert build.profiles[0].inputs[0].max[0] == 8
    assert [spec.shape[1:] for spec in build.network.outputs] == [spec.shape[1:] for spec in written.outputs]


def test_chosen_strides_and_width() -> None:
    backbone = neck("resnet18", extra="none", strides=(16, 8), out_channels=64)
    assert [level.stride for level in backbone.levels] == [8, 16]
    assert (backbone.names, backbone.strides) == (("0", "1"), (8, 16))
    maps = backbone(torch.zeros(1, 3, 64, 64))
    assert [tuple(each.shape) for each in maps.values()] == [(1, 64, 8, 8), (1, 64, 4, 4)]


def test_of_several_maps_at_one_stride_the_deepest_is_taken() -> None:
    features = tuple(
        FeatureMap(node, 8, stride) for node, stride in (("a", 4), ("b", 8), ("c", 16), ("d", 16))
    )
    assert [level.node for level in select_levels("net", features, (4, 8, 16, 32))] == ["a", "b", "d"]


def test_maps_with_the_channels_last_are_recognised() -> None:
    backbone = neck("timm:swin_tiny_patch4_window7_224", extra="none")
    assert backbone.body.layout == "NHWC"
    with torch.inference_mode():
        maps = backbone(torch.zeros(1, 3, 64, 64))
    assert [tuple(each.shape[2:]) for each in maps.values()] == [(16, 16), (8, 8), (4, 4), (2, 2)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_b_16", r"vit_b_16 has feature maps at stride 16, and .* two of 4, 8, 16, 32"),
        ("timm:vit_tiny_patch16_224", r"blocks.0 gives \[1, 17, 192\], which is no map of 192 channels"),
        ("timm:hrnet_w18_small", r"hrnet_w18_small cannot be cut at its feature maps: .*'stem'"),
        ("fcn_resnet50", "fcn_resnet50 advertises no feature maps"),
        ("torchvision:squeezenet1_1", "squeezenet1_1 advertises no feature maps"),
    ],
)
def test_backbones_that_cannot_carry_a_pyramid_say_why(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        neck(name)
