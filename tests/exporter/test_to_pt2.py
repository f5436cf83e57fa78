"""Modules to .pt2 programs."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from bbx.errors import ExportError
from bbx.exporter.to_pt2 import pt2_from_module
from bbx.types import TensorSpec

IMAGES = (TensorSpec("images", "float32", (None, 3, 16, 16)),)


class Branch(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images if images.mean() > 0 else -images


@pytest.mark.parametrize("batch", [None, 2])
def test_a_program_answers_as_the_module_at_every_batch_it_was_made_for(
    nets: ModuleType, tmp_path: Path, batch: int | None
) -> None:
    module, path = nets.Tiny().eval(), tmp_path / "net.pt2"
    pt2_from_module(module, IMAGES, path, batch=batch)
    program = torch.export.load(path).module()
    for rows in (2,) if batch else (1, 2, 5):
        images = torch.randn(rows, 3, 16, 16)
        with torch.no_grad():
            torch.testing.assert_close(program(images), module(images))


def test_control_flow_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"torch\.export cannot capture the model") as caught:
        pt2_from_module(Branch().eval(), IMAGES, tmp_path / "net.pt2")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net.pt2").exists()


def test_a_training_submodule_is_an_error(nets: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="in training mode before the export"):
        pt2_from_module(nets.Tiny(), IMAGES, tmp_path / "net.pt2")
