"""A classifier of three tinted textures: a random backbone, and a last layer that is solved for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from torch import nn

from bbx.images import apply
from bbx.models.build import Model, build
from bbx.models.spec import ModelSpec
from bbx.models.trained import Trained

TINTS = {"brick": (1.0, 0.6, 0.5), "grass": (0.5, 1.0, 0.5), "gravel": (0.6, 0.7, 1.0)}
NAMES = tuple(TINTS)
SIDE = 64


def crops(name: str, count: int, seed: int) -> list[Image.Image]:
    """Square pieces of a texture of scikit-image, tinted; the same arguments give the same pieces."""
    grey: NDArray[np.uint8] = getattr(data, name)()
    texture = (grey[:, :, None] * np.array(TINTS[name])).astype(np.uint8)
    generator = np.random.default_rng([seed, *name.encode()])
    corners = generator.integers(0, 512 - SIDE, (count, 2))
    return [Image.fromarray(texture[y : y + SIDE, x : x + SIDE]) for y, x in corners]


def write_crops(folder: Path, count: int, seed: int = 1, names: dict[str, str] | None = None) -> Path:
    """Class folders of textures; `names` says how a texture's folder is called."""
    for name in NAMES:
        place = folder / (names or {}).get(name, name)
        place.mkdir(parents=True)
        for number, crop in enumerate(crops(name, count, seed)):
            crop.save(place / f"{number:03d}.png")
    return folder


def checkpoint(path: Path, *, order: tuple[int, ...] = (0, 1, 2), named: bool = True) -> Path:
    """Write a checkpoint as `bbx train` does.

    Args:
        order: which texture each class of the network means; anything but (0, 1, 2) is a network that errs.
        named: it says what its classes are called.
    """
    spec = ModelSpec("resnet18", num_classes=len(NAMES), image_size=32, weights="random")
    model = build(spec)
    _solve(model, order)
    trained = Trained(
        spec={"name": spec.name, "num_classes": spec.num_classes, "image_size": spec.image_size},
        task="classification",
        classes=NAMES,
        preprocess=model.preprocess,
        training={},
    )
    save_file(model.module.state_dict(), path, metadata=trained.to_metadata() if named else None)
    return path


def _solve(model: Model, order: tuple[int, ...]) -> None:
    """Set the last layer to the least squares solution on crops that no test uses."""
    layer = [each for each in model.module.modules() if isinstance(each, nn.Linear)][-1]
    images = [crop for name in NAMES for crop in crops(name, 40, seed=0)]
    rows = torch.from_numpy(np.stack([apply(image, model.preprocess) for image in images]))
    features: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.inference_mode():
        model.module(rows)
    hook.remove()
    known = torch.cat([features[0], torch.ones(len(images), 1)], dim=1).double()
    wanted = torch.eye(len(NAMES), dtype=torch.float64)[torch.tensor(order).repeat_interleave(40)]
    gram = known.T @ known
    ridge = 0.01 * gram.trace() * torch.eye(len(gram), dtype=torch.float64) / len(gram)
    solved = torch.linalg.solve(gram + ridge, known.T @ (8 * wanted))
    with torch.no_grad():
        layer.weight.copy_(solved[:-1].T)
        layer.bias.copy_(solved[-1])
