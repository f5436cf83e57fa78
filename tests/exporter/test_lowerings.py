"""bbx's own operators as standard ONNX operators: what ONNX Runtime computes is what torch computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from bbx.exporter.lowerings import translations
from bbx.models.detection.roi_align import Pooling, roi_align
from bbx.models.detection.suppression import suppress

POOLING = Pooling(strides=(4.0, 8.0), limits=(40.0**2,), size=3)


class _Suppress(nn.Module):
    def __init__(self, lowering: str) -> None:
        super().__init__()
        self.lowering = lowering

    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        return suppress(boxes, scores, labels, 0.5, self.lowering)[0]


class _RoIAlign(nn.Module):
    def __init__(self, lowering: str) -> None:
        super().__init__()
        self.lowering = lowering

    def forward(self, fine: Tensor, coarse: Tensor, boxes: Tensor) -> Tensor:
        return roi_align([fine, coarse], boxes, POOLING, self.lowering)


def _crowd(images: int, *, largest: float = 60.0) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes in 96 × 128 pixels, sorted by score, of four labels; the last five are padding."""
    generator = torch.Generator().manual_seed(images)
    centres = torch.rand(images, 50, 2, generator=generator) * torch.tensor([128.0, 96.0])
    sizes = (0.5 + torch.rand(images, 50, 2, generator=generator) / 2) * largest
    boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=2)
    scores = torch.rand(images, 50, generator=generator).sort(dim=1, descending=True).values
    labels = torch.randint(0, 4, (images, 50), generator=generator)
    scores[:, -5:], labels[:, -5:] = 0, -1
    return boxes, scores, labels


def _maps(images: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(images)
    fine = torch.randn(images, 8, 24, 32, generator=generator)
    return fine, torch.randn(images, 8, 12, 16, generator=generator)


def _graph(module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> Path:
    program = torch.onnx.export(
        module.eval(),
        inputs,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},) * len(inputs),
        custom_translation_table=translations(),
        verbose=False,
    )
    assert program is not None
    program.save(str(path))
    return path


def _run(path: Path, inputs: tuple[Tensor, ...]) -> Tensor:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    answer: list[Any] = session.run(None, feeds)
    return torch.from_numpy(answer[0])


def _kinds(path: Path) -> Counter[str]:
    nodes = onnx.load(path).graph.node
    assert {node.domain for node in nodes} == {""}
    return Counter(node.op_type for node in nodes)


def test_suppression_is_one_standard_operator_for_all_classes_and_images(tmp_path: Path) -> None:
    path = _graph(_Suppress("onnx"), _crowd(2), tmp_path / "m.onnx")
    assert _kinds(path)["NonMaxSuppression"] == 1
    for images in (1, 2, 5):
        boxes, scores, labels = _crowd(images)
        expected = _Suppress("onnx")(boxes, scores, labels)
        assert 0 < int((~expected[:, :45]).sum()) < 45 * images
        assert torch.equal(_run(path, (boxes, scores, labels)), expected)
        assert not expected[:, 45:].any()


def test_suppression_of_nothing_but_padding(tmp_path: Path) -> None:
    path = _graph(_Suppress("onnx"), _crowd(2), tmp_path / "m.onnx")
    nothing = (torch.zeros(2, 50, 4), torch.zeros(2, 50), torch.full((2, 50), -1))
    assert not _run(path, nothing).any()
    assert not _Suppress("onnx")(*nothing).any()


def test_pooling_is_one_standard_operator_a_level(tmp_path: Path) -> None:
    path = _graph(_RoIAlign("onnx"), (*_maps(2), _crowd(2)[0]), tmp_path / "m.onnx")
    assert _kinds(path)["RoiAlign"] == 2
    for images in (1, 2, 5):
        inputs = (*_maps(images), _crowd(images)[0])
        torch.testing.assert_close(_run(path, inputs), _RoIAlign("onnx")(*inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("largest", [10.0, 1000.0])
def test_pooling_where_a_level_has_no_box(tmp_path: Path, largest: float) -> None:
    path = _graph(_RoIAlign("onnx"), (*_maps(2), _crowd(2)[0]), tmp_path / "m.onnx")
    boxes = _crowd(2, largest=largest)[0]
    if largest > 100:
        boxes = boxes.new_tensor([-10.0, -10.0, 120.0, 90.0]).expand_as(boxes).contiguous()
    inputs = (*_maps(2), boxes)
    torch.testing.assert_close(_run(path, inputs), _RoIAlign("onnx")(*inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("module", [_Suppress, _RoIAlign])
def test_the_static_lowering_needs_no_translation_and_has_no_shape_that_depends_on_data(
    tmp_path: Path, module: Any
) -> None:
    inputs = _crowd(2) if module is _Suppress else (*_maps(2), _crowd(2)[0])
    path = _graph(module("static"), inputs, tmp_path / "m.onnx")
    assert not _kinds(path).keys() & {"NonMaxSuppression", "RoiAlign", "NonZero", "Loop", "If", "Compress"}
    found, expected = _run(path, inputs), module("onnx")(*inputs)
    if module is _Suppress:
        # Padding may be kept: nothing reads it.
        found, expected = found[:, :45], expected[:, :45]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
