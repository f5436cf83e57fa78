"""Segmenters in torch: against torchvision's own, on any backbone, and what they refuse."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from bbx.errors import BbxError, ModelError, UsageError
from bbx.images import photograph_batch
from bbx.models.batch_norm import estimate_batch_norm
from bbx.models.segmentation.base import Segmenter, labels_of
from bbx.models.segmentation.build import DECODERS, WHOLE, reference, segmenter
from bbx.models.segmentation.by_torchvision import TorchvisionSegmenter
from bbx.models.spec import ModelSpec
from bbx.types import Preprocess

_SIZE = (64, 80)
_CLASSES = 5


def photographs(count: int, size: tuple[int, int] = _SIZE) -> torch.Tensor:
    return torch.from_numpy(photograph_batch(Preprocess(*size), count))


@cache
def whole(name: str) -> Segmenter:
    torch.manual_seed(0)
    module = segmenter(name, num_classes=_CLASSES, size=_SIZE)
    estimate_batch_norm(module, Preprocess(*_SIZE))
    return module


def decoder(architecture: str, backbone: str, size: tuple[int, int], *, argmax: bool = False) -> Segmenter:
    torch.manual_seed(0)
    spec = ModelSpec(backbone, weights="random", image_size=64)
    return segmenter(architecture, backbone=spec, num_classes=_CLASSES, size=size, argmax=argmax)


@pytest.mark.parametrize("name", WHOLE)
def test_keys_are_torchvisions(name: str) -> None:
    module = whole(name)
    assert isinstance(module, TorchvisionSegmenter)
    assert module.outputs == ("logits",)
    with torch.device("meta"):
        plain = get_model(name, weights=None, weights_backbone=None, num_classes=_CLASSES)
        # Published checkpoints of FCN and DeepLabV3 come with the auxiliary classifier.
        auxiliary = bool(module.unused_keys)
        published = get_model(
            name, weights=None, weights_backbone=None, num_classes=_CLASSES, aux_loss=auxiliary
        )
    own = module.state_dict()
    assert {key: value.shape for key, value in own.items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }
    unused = published.state_dict().keys() - own.keys()
    assert bool(unused) == auxiliary
    assert all(key.startswith(module.unused_keys) for key in unused)


@pytest.mark.parametrize("name", WHOLE)
def test_logits_are_torchvisions_bit_for_bit(name: str) -> None:
    module, images = whole(name), photographs(2)
    theirs = reference(module)
    assert theirs is not None
    assert type(theirs).__module__.startswith("torchvision.")
    with torch.inference_mode():
        given, wanted = module(images), theirs(images)["out"]
    assert given.shape == (2, _CLASSES, *_SIZE)
    assert given.std(dim=(2, 3)).min() > 1e-3, "the logits say nothing, so their equality would not either"
    assert torch.equal(given, wanted)


def test_labels_are_the_highest_logits() -> None:
    module, images = whole("lraspp_mobilenet_v3_large"), photographs(2)
    labelling = segmenter("lraspp_mobilenet_v3_large", num_classes=_CLASSES, size=_SIZE, argmax=True)
    labelling.load_state_dict(module.state_dict())
    with torch.inference_mode():
        labels, logits = labelling(images), module(images)
    assert labelling.outputs == ("labels",)
    assert labels.dtype == torch.uint8
    assert labels.unique().numel() > 1
    assert torch.equal(labels.long(), logits.argmax(dim=1))


@pytest.mark.parametrize(("classes", "dtype"), [(2, torch.uint8), (256, torch.uint8), (257, torch.int32)])
def test_labels_take_the_smallest_type_that_holds_them_and_ties_go_to_the_lowest(
    classes: int, dtype: torch.dtype
) -> None:
    logits = torch.zeros(1, classes, 1, 3)
    logits[0, -1, 0, 1] = 1.0
    logits[0, -2:, 0, 2] = 1.0
    labels = labels_of(logits)
    assert labels.dtype == dtype
    assert labels.tolist() == [[[0, classes - 1, classes - 2]]]


@pytest.mark.parametrize(
    ("architecture", "backbone", "size"),
    [
        ("unet", "mobilenet_v3_large", (96, 128)),
        ("unet", "alexnet", (100, 132)),  # maps that are no half of one another
        ("unet", "swin_t", (64, 96)),  # maps that come with the channels last
        ("unet", "timm:convnext_atto", (96, 64)),
        ("semantic_fpn", "efficientnet_lite1", (96, 128)),
        ("semantic_fpn", "resnet18", (100, 132)),  # no multiple of the coarsest stride
    ],
)
def test_decoders_take_any_backbone_and_train_all_of_it(
    architecture: str, backbone: str, size: tuple[int, int]
) -> None:
    module = decoder(architecture, backbone, size).train()
    logits = module(photographs(2, size))
    assert logits.shape == (2, _CLASSES, *size)
    nn.functional.cross_entropy(logits, torch.ones(2, *size, dtype=torch.long)).backward()
    idle = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert idle == []
    assert reference(module) is None


def test_the_unet_sees_what_only_the_finest_map_shows() -> None:
    """With the decoder's view of the finest map cut, the answer changes: the skip connection is used."""
    module, images = decoder("unet", "resnet18", (64, 64)), photographs(1, (64, 64))
    with torch.inference_mode():
        before = module(images)
        last = module.get_submodule("decoder")[-1]  # type: ignore[index]
        last[0].weight[:, -64:] = 0  # stride 4 of ResNet-18 has 64 channels, joined last
        after = module(images)
    assert not torch.allclose(before, after)


def test_unknown_segmenters_name_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"'deeplabv3_resnet18'.*Nearest: deeplabv3_resnet"):
        segmenter("deeplabv3_resnet18", num_classes=2, size=_SIZE)


@pytest.mark.parametrize(
    ("architecture", "backbone", "message"),
    [
        ("fcn_resnet50", "resnet18", "Leave --backbone out, or choose unet or semantic_fpn"),
        ("unet", None, "unet needs a backbone.*--backbone resnet50"),
    ],
)
def test_a_backbone_too_many_or_too_few(architecture: str, backbone: str | None, message: str) -> None:
    spec = backbone and ModelSpec(backbone, weights="random")
    with pytest.raises(UsageError, match=message):
        segmenter(architecture, backbone=spec or None, num_classes=2, size=_SIZE)


def test_labels_of_one_class_are_refused() -> None:
    with pytest.raises(UsageError, match="Leave --argmax out"):
        segmenter("fcn_resnet50", num_classes=1, size=_SIZE, argmax=True)


@pytest.mark.parametrize("architecture", DECODERS)
def test_a_backbone_of_one_scale_is_refused(architecture: str) -> None:
    with pytest.raises(BbxError, match=r"vit_b_16 has feature maps at stride 16, and .* at least two of"):
        decoder(architecture, "vit_b_16", (224, 224))
