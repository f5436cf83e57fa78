"""Modules to ONNX graphs, run in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxscript import rewriter
from torch import nn

from bbx.artifact import check_external_data
from bbx.errors import ExhaustedError, ExportError, UsageError
from bbx.exporter import to_onnx
from bbx.exporter.onnx_io import check_onnx
from bbx.exporter.to_onnx import OnnxExport, OnnxOptions, onnx_from_module
from bbx.runners.ort import OrtRunner
from bbx.types import TensorSpec

IMAGES = (TensorSpec("images", "float32", (None, 3, 16, 16)),)
EXPORTERS = ("dynamo", "torchscript")


def export(module: nn.Module, out: Path, **options: Any) -> OnnxExport:
    return onnx_from_module(module.eval(), IMAGES, ("logits",), OnnxOptions(**options), out)


def agrees(module: nn.Module, path: Path, *shape: int) -> bool:
    images = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    with OrtRunner(path) as runner, torch.no_grad():
        answer = runner.infer({"images": images.numpy()})["logits"]
        return bool(np.allclose(answer, module(images).numpy(), rtol=1e-4, atol=1e-5))


class _Branch(nn.Module):
    """A Python branch on a tensor: `torch.export` refuses it, a trace keeps one side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv(images).mean((2, 3))
        return maps if images.sum() > -1e30 else -maps


class _Halves(nn.Module):
    """Two slices that a rule of onnxscript's optimiser would join into a split."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        left, right = images[..., :8], images[..., 8:]
        return (left - right).mean((1, 2))


class _Raising(nn.Module):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(self.text)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_graph_has_names_a_dynamic_batch_and_the_modules_answers(
    nets: ModuleType, tmp_path: Path, exporter: str
) -> None:
    module, path = nets.Tiny(), tmp_path / "net.onnx"
    found = export(module, path, exporter=exporter)
    assert (found.exporter, found.notes) == (exporter, ())
    assert found.inputs == IMAGES
    assert found.outputs == (TensorSpec("logits", "float32", (None, 10)),)
    check_onnx(path)
    assert all(agrees(module, path, batch, 3, 16, 16) for batch in (1, 2, 5))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_batch_opset_and_size_are_what_was_asked(nets: ModuleType, tmp_path: Path, exporter: str) -> None:
    module, path = nets.Tiny(), tmp_path / "net.onnx"
    found = export(module, path, exporter=exporter, batch=4, opset=18)
    assert (found.opset, found.inputs[0].shape) == (18, (4, 3, 16, 16))
    assert agrees(module, path, 4, 3, 16, 16)
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = export(pooled, path, exporter=exporter, dynamic_size=True)
    assert found.inputs[0].shape == (None, 3, None, None)
    assert agrees(pooled, path, 2, 3, 40, 24)


def test_the_first_exporter_is_the_one_on_torch_export(nets: ModuleType, tmp_path: Path) -> None:
    assert export(nets.Tiny(), tmp_path / "net.onnx").exporter == "dynamo"


def test_the_same_module_gives_the_same_bytes_without_paths_of_this_machine(
    nets: ModuleType, nets_folder: Path, tmp_path: Path
) -> None:
    module = nets.Tiny()
    for name in ("one.onnx", "two.onnx"):
        export(module, tmp_path / name)
    content = (tmp_path / "one.onnx").read_bytes()
    assert content == (tmp_path / "two.onnx").read_bytes()
    assert str(nets_folder).encode() not in content
    assert b"stack_trace" not in content


def test_the_optimisers_quadratic_rule_is_left_out_and_the_others_are_not(tmp_path: Path) -> None:
    before = rewriter._DEFAULT_REWRITE_RULES
    path = tmp_path / "net.onnx"
    export(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), _Halves()), path, exporter="dynamo")
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert kinds.count("Slice") == 2
    assert "Split" not in kinds
    assert "BatchNormalization" not in kinds
    assert rewriter._DEFAULT_REWRITE_RULES is before


def test_what_torch_export_refuses_is_traced_and_noted(tmp_path: Path) -> None:
    module, path = _Branch(), tmp_path / "net.onnx"
    found = export(module, path)
    assert found.exporter == "torchscript"
    assert "The dynamo exporter failed" in found.notes[0]
    assert "\n" not in found.notes[0]
    assert agrees(module, path, 3, 3, 16, 16)
    with pytest.raises(ExportError, match="dynamo exporter failed") as caught:
        export(module, path, exporter="dynamo")
    assert "\n" not in str(caught.value)


def test_a_module_that_no_exporter_takes_is_named_once_for_each(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export(_Raising("not today"), tmp_path / "net.onnx")
    assert str(caught.value).count("not today") == 2
    assert not (tmp_path / "net.onnx").exists()


def test_no_memory_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(ExhaustedError):
        export(_Raising("CUDA out of memory. Tried to allocate 2 GiB"), tmp_path / "net.onnx")


def test_a_training_submodule_is_an_error(nets: ModuleType, tmp_path: Path) -> None:
    module = nets.Tiny().eval()
    module.norm.train()
    with pytest.raises(ExportError, match="1 submodules are in training mode before the export: norm"):
        onnx_from_module(module, IMAGES, ("logits",), OnnxOptions(), tmp_path / "net.onnx")


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_weights_over_the_limit_go_to_one_file_of_their_own(
    nets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exporter: str
) -> None:
    monkeypatch.setattr(to_onnx, "PROTOBUF_LIMIT", 1000)
    (tmp_path / "bystander.txt").touch()
    module, path = nets.Tiny(), tmp_path / "net.onnx"
    export(module, path, exporter=exporter)
    assert check_external_data(path) == [tmp_path / "net.onnx.data"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bystander.txt", "net.onnx", "net.onnx.data"]
    check_onnx(path)
    assert agrees(module, path, 2, 3, 16, 16)


@pytest.mark.parametrize("options", [{"batch": 0}, {"batch": -1}, {"opset": 17}, {"opset": 24}])
def test_options_are_checked_when_they_are_given(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="Type"):
        OnnxOptions(**options)


def test_the_checker_names_what_it_refuses(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["nowhere"], ["y"])
    value = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [value])), tmp_path / "bad.onnx")
    with pytest.raises(ExportError, match=r"refuses bad\.onnx") as caught:
        check_onnx(tmp_path / "bad.onnx")
    assert "\n" not in str(caught.value)
