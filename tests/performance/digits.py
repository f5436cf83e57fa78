"""Presets that learnt scikit-learn's digits, and the digits themselves as pictures.

What was trained is kept outside the repository, in `$XDG_CACHE_HOME/bbx-tests`, under the hash of this code,
and used again until the code changes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import bbx
from bbx import images
from bbx.types import Preprocess

SIDE = 32
CLASSES = 10
UNSEEN = 600
"""Of 1,797 digits, those that no network learns from: one of them is 0.17 points of accuracy."""
EPOCHS: dict[str, int] = {"resnet18": 8, "mobilenet_v2": 16, "efficientnet_b0": 16}
_BATCH, _RATE = 32, 3e-3


def digits() -> tuple[list[Image.Image], list[int], list[Image.Image], list[int]]:
    """Pictures and labels to learn from, and those that are kept back."""
    grey, labels = load_digits(return_X_y=True)
    shades = np.clip(np.rint(grey.reshape(-1, 8, 8) * (255 / 16)), 0, 255).astype(np.uint8)
    pictures = [Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for each in shades]
    seen, unseen = train_test_split(np.arange(len(labels)), test_size=UNSEEN, random_state=0, stratify=labels)
    return (
        [pictures[index].convert("RGB") for index in seen],
        labels[seen].tolist(),
        [pictures[index].convert("RGB") for index in unseen],
        labels[unseen].tolist(),
    )


def feed(pictures: Sequence[Image.Image], how: Preprocess) -> NDArray[np.float32]:
    """Pictures as a network takes them."""
    return np.stack([images.apply(picture, how) for picture in pictures]).astype(np.float32)


def trained(name: str) -> Path:
    """The checkpoint of a preset with ten classes; without one it is trained now, which takes minutes."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    made_with = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    path = cache / "bbx-tests" / f"digits-{name}-{made_with}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        save_file(_taught(name).state_dict(), unfinished)
        unfinished.replace(path)
    return path


def _taught(name: str) -> nn.Module:
    """AdamW over one cycle of the learning rate; pictures are moved by two pixels at most."""
    torch.manual_seed(0)
    model = bbx.build(name, weights="random", num_classes=CLASSES, image_size=SIDE)
    module = model.module.train()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1  # EfficientNet's own follows too slowly for so few steps
    pictures, labels, _, _ = digits()
    x, y = torch.from_numpy(feed(pictures, model.preprocess)), torch.tensor(labels)
    steps = EPOCHS[name] * -(-len(x) // _BATCH)
    optimiser = torch.optim.AdamW(module.parameters(), lr=_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=_RATE, total_steps=steps)
    for _ in range(EPOCHS[name]):
        for rows in torch.randperm(len(x)).split(_BATCH):
            moved = torch.roll(x[rows], tuple(torch.randint(-2, 3, (2,)).tolist()), (2, 3))
            loss = nn.functional.cross_entropy(module(moved), y[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return module.eval()
