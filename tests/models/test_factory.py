"""Models of the user's own, named `package.module:factory`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bbx.errors import ModelError, UsageError, WeightsError
from bbx.models.build import build
from bbx.models.spec import ModelSpec

Written = Callable[[str], str]

_NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
    def forward(self, x):
        return self.model(x)
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """Write a module into the working folder and give its name."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def write(source: str) -> str:
        package = tmp_path / "my_nets"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "small.py").write_text(_NET + source)
        return "my_nets.small"

    yield write
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "my_nets":
            del sys.modules[name]


def test_a_module_from_the_working_folder(written: Written) -> None:
    path = list(sys.path)
    model = build(ModelSpec(written("") + ":Net", image_size=32))
    assert model.inputs[0].shape == (None, 3, 32, 32)
    assert model.outputs[0].shape == (None, 6)
    assert model.weights == "random"
    assert "factory" in model.notes[0]
    assert not model.module.training
    assert sys.path == path


def test_the_seed_decides_its_weights(written: Written) -> None:
    name = written("") + ":Net"
    one, same, other = (build(ModelSpec(name, seed=seed)).module.state_dict() for seed in (1, 1, 2))
    assert torch.equal(one["model.0.weight"], same["model.0.weight"])
    assert not torch.equal(one["model.0.weight"], other["model.0.weight"])


@pytest.mark.parametrize("example", ["torch.zeros(1, 3, 20, 28)", "(torch.zeros(1, 3, 20, 28),)"])
def test_example_inputs_say_the_size(written: Written, example: str) -> None:
    name = written(f"\ndef make():\n    return Net(), {example}\n")
    assert build(ModelSpec(f"{name}:make")).inputs[0].shape == (None, 3, 20, 28)


def test_a_checkpoint_keeps_a_prefix_that_the_module_has_too(written: Written, tmp_path: Path) -> None:
    name = written("") + ":Net"
    state = build(ModelSpec(name, seed=9)).module.state_dict()
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "net.pth")
    model = build(ModelSpec(name, weights=str(tmp_path / "net.pth")))
    assert torch.equal(model.module.state_dict()["model.3.weight"], state["model.3.weight"])


@pytest.mark.parametrize(
    ("source", "factory", "said"),
    [
        ("", "Nett", "Net"),
        ("number = 3", "number", "not a function"),
        ("def make(width):\n    return Net()", "make", "without arguments"),
        ("def make():\n    return 3", "make", "nn.Module"),
        ("def make():\n    raise OSError('no licence')", "make", "no licence"),
        ("def make():\n    return Net(), 3", "make", "example_inputs"),
        ("def make():\n    return Net(), torch.zeros(1, 1, 8, 8)", "make", "[1, 1, 8, 8]"),
        ("def make():\n    return nn.Linear(3, 2)", "make", "cannot run on a 224x224 image"),
        ("import no_such_library_of_mine", "Net", "no_such_library_of_mine"),
        ("1 / 0", "Net", "ZeroDivisionError"),
        (
            "class Two(Net):\n    def forward(self, x):\n        return self.model(x), x",
            "Two",
            "needs one tensor",
        ),
    ],
)
def test_what_is_wrong_is_said(written: Written, source: str, factory: str, said: str) -> None:
    name = written(source + "\n")
    with pytest.raises(ModelError) as caught:
        build(ModelSpec(f"{name}:{factory}"))
    assert said in str(caught.value)


def test_a_module_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no module 'absent_package'"):
        build(ModelSpec("absent_package.nets:make"))


def test_the_head_is_the_factorys_own(written: Written) -> None:
    name = written("") + ":Net"
    for options in ({"head": "none"}, {"num_classes": 3}):
        with pytest.raises(UsageError, match="factory's own"):
            build(ModelSpec.from_request({"name": name} | options))


def test_nobody_publishes_weights_for_it(written: Written) -> None:
    with pytest.raises(WeightsError, match="--weights FILE"):
        build(ModelSpec(written("") + ":Net", weights="pretrained"))
