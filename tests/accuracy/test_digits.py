"""A small ResNet that learnt scikit-learn's digits: what it knows survives export and half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from bbx.models.build import build
from bbx.models.spec import ModelSpec
from bbx.runners.ort import OrtRunner

LEAST_ACCURACY = 0.97
POINTS = 0.003
"""Accuracy that half precision may cost."""

_NET = '''
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, conv1x1

def digits():
    """ResNet of three blocks for pictures of 8 × 8."""
    shortcut = nn.Sequential(conv1x1(32, 64, 2), nn.BatchNorm2d(64))
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        BasicBlock(32, 32), BasicBlock(32, 64, 2, shortcut), BasicBlock(64, 64),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    ), torch.zeros(1, 3, 8, 8)
'''


def _pictures() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The digits as float32 [1797, 3, 8, 8] in -1..1, and their labels."""
    grey, labels = load_digits(return_X_y=True)
    images = (grey.reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)
    return images.repeat(3, axis=1), labels


def _train(
    module: nn.Module, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], epochs: int
) -> None:
    """Adam with one cycle of the learning rate."""
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    batch, generator = 64, torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(module.parameters(), weight_decay=1e-2)
    steps = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=5e-3, total_steps=steps)
    module.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            loss = nn.functional.cross_entropy(module(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    module.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Folder with the factory and its checkpoint; test pictures, labels and torch's answers."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "digit_nets.py").write_text(_NET)
    images, labels = _pictures()
    seen, unseen, seen_labels, unseen_labels = train_test_split(
        images, labels, test_size=0.25, random_state=0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        module = build(ModelSpec("digit_nets:digits")).module
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a net spends its time waiting when the cores are shared
    _train(module, seen, seen_labels, epochs=6)
    torch.set_num_threads(threads)
    save_file(module.state_dict(), folder / "digits.safetensors")
    with torch.inference_mode():
        answers = module(torch.from_numpy(unseen)).numpy()
    return {"folder": folder, "images": unseen, "labels": unseen_labels, "torch": answers}


def _answers(document: dict[str, Any], images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with OrtRunner(Path(document["artifact"])) as runner:
        return np.concatenate(
            [runner.infer({"images": part})["logits"] for part in np.split(images, [200, 400])]
        )


def test_what_was_learnt_survives_export_and_half_precision(
    trained: dict[str, Any], bbx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained["folder"])
    ask = ("export", "digit_nets:digits", "--weights", "digits.safetensors", "--json", "-q", "-o", tmp_path)
    plain, half = bbx(*ask), bbx(*ask, "--fp16")
    assert (plain.code, half.code) == (0, 0), plain.stderr + half.stderr
    assert plain.document["weights"]["path"].endswith("digits.safetensors")
    labels, images = trained["labels"], trained["images"]

    def accuracy(answers: np.ndarray[Any, Any]) -> float:
        return float((answers.argmax(1) == labels).mean())

    by_torch, by_graph = trained["torch"], _answers(plain.document, images)
    assert accuracy(by_torch) > LEAST_ACCURACY
    assert np.array_equal(by_graph.argmax(1), by_torch.argmax(1))
    assert np.allclose(by_graph, by_torch, rtol=1e-3, atol=1e-4)
    by_half = _answers(half.document, images)
    assert not np.array_equal(by_half, by_graph)
    assert abs(accuracy(by_half) - accuracy(by_torch)) <= POINTS
