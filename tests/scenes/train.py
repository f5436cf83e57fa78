"""Training torchvision's own detectors and a segmenter on scenes, from random weights, in minutes.

A detector's backbone first learns to name single digits on small patches, where a step costs a tenth; then
the whole model learns on scenes. The segmenter starts from a detector's blocks. What was trained is kept
outside the repository, in `$XDG_CACHE_HOME/bbx-tests`, under the hash of this code, and used again until the
code changes. `python -m tests.scenes` trains all anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import detection, segmentation
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from tests.scenes.compose import CATEGORIES, LARGEST, Scene, scenes

HERE = Path(__file__).parent

Name = Literal["fasterrcnn", "ssdlite", "segmenter"]
NAMES: tuple[Name, ...] = get_args(Name)

CLASSES = len(CATEGORIES) + 1
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

PATCH_SEED, SCENE_SEED = 1_000_000, 2_000_000
"""First seeds of what is learnt from; tests use small ones."""

Report = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model is made and taught.

    Attributes:
        build: torchvision's model with random weights.
        mean: what the model subtracts from images of 0..1; `std` is what it divides by then.
        begin: what its backbone learns before it sees scenes.
        size: side of its scenes in pixels.
        steps: batches of scenes that it sees.
        batch: scenes in each.
        rate: peak learning rate on scenes.
        loss: of a batch of scenes.
    """

    build: Callable[[], nn.Module]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    begin: Callable[[Any, Recipe, Report], None]
    size: int
    steps: int
    batch: int
    rate: float
    loss: Callable[[Any, Sequence[Scene]], Tensor]


def _fasterrcnn() -> nn.Module:
    """On ResNet-18-FPN; it learns from fewer proposals than by default, which changes nothing later."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    module: nn.Module = detection.FasterRCNN(
        backbone,
        CLASSES,
        min_size=128,
        max_size=128,
        rpn_batch_size_per_image=128,
        rpn_pre_nms_top_n_train=500,
        rpn_post_nms_top_n_train=200,
        box_batch_size_per_image=64,
    )
    return module


def _ssdlite() -> nn.Module:
    module: nn.Module = detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=CLASSES
    )
    return module


def _segmenter() -> nn.Module:
    """Its normalisation follows ten times faster than torchvision's, which is made for thousands of steps."""
    module: nn.Module = segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=CLASSES
    )
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1
    return module


def _detection_loss(module: Any, composed: Sequence[Scene]) -> Tensor:
    images = [torch.from_numpy(scene.tensor_array) for scene in composed]
    targets = [
        {"boxes": torch.from_numpy(scene.boxes), "labels": torch.from_numpy(scene.labels)}
        for scene in composed
    ]
    losses: list[Tensor] = list(module(images, targets).values())
    return torch.stack(losses).sum()


def _segmentation_loss(module: Any, composed: Sequence[Scene]) -> Tensor:
    """Cross-entropy in which background counts less, as there is so much of it."""
    images = normalised(torch.from_numpy(np.stack([scene.image for scene in composed])))
    masks = torch.from_numpy(np.stack([scene.mask for scene in composed])).long()
    weights = torch.ones(CLASSES)
    weights[0] = 0.3
    return nn.functional.cross_entropy(module(images)["out"], masks, weights)


def normalised(images: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] as a backbone takes it."""
    return ((images.float() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)


def patches(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Squares around digits of training scenes, and some of background; the largest digit just fits.

    Returns:
        uint8 [count, side, side, 3], and int64 [count]: the label of the digit in the middle, or 0.
    """
    generator = np.random.default_rng(count)
    size = round(side / LARGEST)
    cut: list[Any] = []
    labels: list[int] = []
    while len(cut) < count:
        for scene in scenes(64, PATCH_SEED + len(cut), "train", size):
            centres = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
            jitter = generator.uniform(-side / 8, side / 8, centres.shape)
            corners = (centres - side / 2 + jitter).astype(int).clip(0, size - side)
            x, y = generator.integers(0, size - side + 1, 2)
            bare = not scene.mask[y : y + side, x : x + side].any()
            for left, top in [*corners, *([(x, y)] if bare else [])]:
                cut.append(scene.image[top : top + side, left : left + side])
            labels += [*scene.labels.tolist(), *([0] if bare else [])]
    order = generator.permutation(len(cut))[:count]
    return torch.from_numpy(np.stack(cut)[order]), torch.tensor(labels)[order]


def _learn_patches(
    module: Any,
    recipe: Recipe,
    report: Report,
    *,
    body: Callable[[Any, Tensor], Tensor],
    channels: int,
    side: int,
    epochs: int,
    count: int = 10_240,
) -> None:
    """Name the digit in the middle of a patch.

    Args:
        body: from the module and normalised patches to float32 [B, `channels`, H, W].
        side: of a patch in pixels.
        epochs: how often each patch is seen.
    """
    images, labels = patches(count, side)
    head = nn.Linear(channels, CLASSES)
    batches = [rows for _ in range(epochs) for rows in torch.randperm(count).split(32)]

    def loss(step: int) -> Tensor:
        rows = batches[step]
        maps = body(module, normalised(images[rows], recipe.mean, recipe.std))
        return nn.functional.cross_entropy(head(maps.mean((2, 3))), labels[rows], label_smoothing=0.05)

    _descend([*module.parameters(), *head.parameters()], loss, len(batches), 3e-3, report)


def _take_from_ssdlite(module: Any, _recipe: Recipe, report: Report) -> None:
    """The first 13 blocks of MobileNetV3, up to stride 16, are the same in both."""
    detector: Any = trained("ssdlite", report)[0]
    blocks = detector.backbone.features[0][:13].state_dict()
    assert blocks.keys() <= module.backbone.state_dict().keys()
    module.backbone.load_state_dict(blocks, strict=False)


def _learn_scenes(module: nn.Module, recipe: Recipe, report: Report) -> None:
    def loss(step: int) -> Tensor:
        return recipe.loss(module, scenes(recipe.batch, SCENE_SEED + step, "train", recipe.size))

    _descend(list(module.parameters()), loss, recipe.steps, recipe.rate, report)


def _descend(
    parameters: list[nn.Parameter],
    loss_of: Callable[[int], Tensor],
    steps: int,
    rate: float,
    report: Report,
) -> None:
    """AdamW over one cycle of the learning rate (Smith and Topin, 2018)."""
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=steps, pct_start=0.2)
    recent: list[float] = []
    for step in range(steps):
        loss = loss_of(step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimiser.step()
        schedule.step()
        recent.append(float(loss.detach()))
        if (step + 1) % 10 == 0:
            report(f"step {step + 1} of {steps}, loss {np.mean(recent[-10:]):.3f}")


RECIPES: dict[Name, Recipe] = {
    "fasterrcnn": Recipe(
        _fasterrcnn,
        MEAN,
        STD,
        partial(
            _learn_patches,
            body=lambda module, images: module.backbone.body(images)["3"],
            channels=512,
            side=48,
            epochs=1,
        ),
        size=128,
        steps=150,
        batch=4,
        rate=4e-4,
        loss=_detection_loss,
    ),
    "ssdlite": Recipe(
        _ssdlite,
        (0.5,) * 3,
        (0.5,) * 3,
        partial(
            _learn_patches,
            body=lambda module, images: module.backbone.features(images),
            channels=480,
            side=72,
            epochs=2,
        ),
        size=320,
        steps=160,
        batch=8,
        rate=1e-3,
        loss=_detection_loss,
    ),
    "segmenter": Recipe(
        _segmenter,
        MEAN,
        STD,
        _take_from_ssdlite,
        size=224,
        steps=150,
        batch=8,
        rate=1e-3,
        loss=_segmentation_loss,
    ),
}


def train(name: Name, report: Report = lambda line: None) -> nn.Module:
    """A model of torchvision that has learnt its scenes, in eval mode.

    Args:
        report: hears how it goes, a line at a time.
    """
    recipe = RECIPES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = recipe.build().to(memory_format=torch.channels_last).train()
        recipe.begin(module, recipe, report)
        _learn_scenes(module, recipe, report)
    return module.to(memory_format=torch.contiguous_format).eval()


def checkpoint(name: Name) -> Path:
    """Where a trained model is kept: its name and a hash of what it was made with."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    made_with = b"".join((HERE / file).read_bytes() for file in ("compose.py", "train.py"))
    return cache / "bbx-tests" / f"{name}-{hashlib.sha256(made_with).hexdigest()[:16]}.safetensors"


def trained(name: Name, report: Report = lambda line: None, *, anew: bool = False) -> tuple[nn.Module, Path]:
    """A trained model in eval mode, and its checkpoint.

    The checkpoint that the repository brings is used, else the cached one; without either the model is
    trained now, which takes minutes.

    Args:
        report: as for `train`.
        anew: train in any case.
    """
    path = HERE / f"{name}.safetensors"
    if anew or not path.exists():
        path = checkpoint(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if anew or not path.exists():
                unfinished = path.with_suffix(".part")
                save_file(_rounded(train(name, report).state_dict()), unfinished)
                unfinished.replace(path)
    module = RECIPES[name].build()
    module.load_state_dict(load_file(path))
    return module.eval(), path


def _rounded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels in FP16: half the bytes, and every user of the file sees the same weights."""
    return {name: value.half() if value.ndim > 1 else value for name, value in state.items()}
