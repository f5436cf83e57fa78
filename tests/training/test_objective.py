"""Losses of each task, auxiliary classifiers, and averages that are judged in their deployed form."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from bbx.datasets import IGNORED
from bbx.models.build import build
from bbx.models.spec import ModelSpec
from bbx.training.options import TrainOptions
from bbx.training.subject import Subject, subject_of


def _subject(name: str, classes: int, size: int | None, **options: Any) -> Subject:
    spec = ModelSpec(name, weights="random", image_size=size)
    return subject_of(TrainOptions(spec, "data", **options), classes)


def test_pixels_that_nobody_judges_count_for_nothing() -> None:
    objective = _subject("lraspp_mobilenet_v3_large", 3, 64).objective.eval()
    images, masks = torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    masks[:, :32] = IGNORED
    with torch.no_grad():
        answers = objective.answers(images)
        wanted = functional.cross_entropy(answers["logits"], masks, ignore_index=IGNORED)
        assert torch.allclose(objective(images, masks), wanted, rtol=1e-5)
        assert float(objective(images, torch.full_like(masks, IGNORED))) == 0.0


def test_a_right_box_costs_less_than_a_wrong_one() -> None:
    """What torchvision's loss is shown is what it takes for the target: one step makes it likelier."""
    subject = _subject("ssdlite320_mobilenet_v3_large", 3, None)
    objective = subject.objective
    images = torch.zeros(2, 3, 320, 320)
    images[:, :, 80:200, 100:220] = 1.5

    def targets(*box: float) -> list[dict[str, torch.Tensor]]:
        return [{"boxes": torch.tensor([box]), "labels": torch.tensor([1])} for _ in range(2)]

    right, wrong = targets(100, 80, 220, 200), targets(10, 10, 60, 60)
    optimiser = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    objective.train()
    for _ in range(6):
        loss = objective(images, right)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        assert float(objective(images, right)) < float(objective(images, wrong))


@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v1", 224)])
def test_auxiliary_classifiers_help_while_training_and_are_in_no_build(
    name: str, size: int, tmp_path: Path
) -> None:
    subject = _subject(name, 4, size)
    network = subject.objective.network
    side = {key for key in network.state_dict() if key.startswith("aux")}
    assert side
    assert "auxiliary classifiers help while it is trained" in subject.notes
    images, labels = torch.randn(2, 3, size, size), torch.tensor([0, 3])
    subject.objective.train()
    subject.objective(images, labels).backward()
    assert all(each.grad is not None for name, each in network.named_parameters() if name in side)
    path = tmp_path / "trained.safetensors"
    save_file(network.state_dict(), path)
    spec = ModelSpec(name, weights=str(path), image_size=size, num_classes=4)
    plain = build(spec).module
    assert plain.state_dict().keys() == network.state_dict().keys() - side
    network.eval()
    with torch.inference_mode():
        assert torch.allclose(plain(images), network(images), atol=1e-5)


def test_a_frozen_network_has_no_use_for_auxiliaries() -> None:
    notes = _subject("googlenet", 4, 64, freeze_backbone=True).notes
    assert not [note for note in notes if "auxiliary" in note]


@pytest.mark.parametrize(
    ("name", "size"), [("timm:test_resnet", 32), ("ssdlite320_mobilenet_v3_large", None)]
)
def test_the_deployed_form_of_a_copy_shares_what_the_copy_learns(name: str, size: int | None) -> None:
    objective = _subject(name, 3, size).objective
    copied = copy.deepcopy(objective)
    own = {id(each) for each in copied.network.parameters()}
    assert {id(each) for each in copied.deployed.parameters()} <= own
    assert not own & {id(each) for each in objective.network.parameters()}
    assert set(objective.state_dict()) == {f"network.{key}" for key in objective.network.state_dict()}
