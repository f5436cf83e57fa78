"""Modules to TorchScript: traced, scripted, or refused."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from bbx.errors import ExportError
from bbx.exporter.to_torchscript import torchscript_from_module
from bbx.types import TensorSpec

IMAGES = (TensorSpec("images", "float32", (None, 3, 16, 16)),)


class Branch(nn.Module):
    """Another answer for dark pictures."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.mean() > 0:
            return images.mean((2, 3))
        return images.mean((2, 3)) * 2.0 - 1.0


class Unscriptable(Branch):
    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(images)


class Neither(nn.Module):
    def forward(self, images: Any) -> Any:
        raise ValueError("neither of the two")


@pytest.mark.parametrize("batch", [None, 2])
def test_a_plain_module_is_traced(nets: ModuleType, tmp_path: Path, batch: int | None) -> None:
    module, path = nets.Tiny().eval(), tmp_path / "net.torchscript"
    assert torchscript_from_module(module, IMAGES, path, batch=batch) == ("trace", ())
    program = torch.jit.load(path)
    images = torch.randn(2 if batch else 5, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(program(images), module(images))


def test_control_flow_is_scripted(tmp_path: Path) -> None:
    path = tmp_path / "net.torchscript"
    assert torchscript_from_module(Branch().eval(), IMAGES, path) == ("script", ())
    program = torch.jit.load(path)
    for images in (torch.ones(1, 3, 16, 16), -torch.ones(1, 3, 16, 16)):
        torch.testing.assert_close(program(images), Branch()(images))


def test_control_flow_that_cannot_be_scripted_is_traced_with_a_note(tmp_path: Path) -> None:
    method, notes = torchscript_from_module(Unscriptable().eval(), IMAGES, tmp_path / "net.torchscript")
    assert method == "trace"
    assert "A branch depends on a tensor, and scripting failed" in notes[0]
    assert "\n" not in notes[0]


def test_what_can_be_neither_traced_nor_scripted(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="neither of the two") as caught:
        torchscript_from_module(Neither().eval(), IMAGES, tmp_path / "net.torchscript")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net.torchscript").exists()


def test_a_training_submodule_is_an_error_before_and_after(nets: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "net.torchscript"
    with pytest.raises(ExportError, match="before the export: the model itself"):
        torchscript_from_module(nets.Tiny(), IMAGES, path)
    with pytest.raises(ExportError, match="after the export: norm"):
        torchscript_from_module(nets.Stubborn().eval(), IMAGES, path)
