"""FCOS gives torchvision's detections: in torch, in ONNX Runtime, and as an engine that builds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import fcos, fcos_resnet50_fpn

from bbx.exporter.engine_options import EngineOptions
from bbx.exporter.to_engine import engine_from_onnx
from bbx.models.detection.fcos import FCOS
from bbx.models.detection.options import DetectionOptions

SIZE = (96, 128)
HOW = DetectionOptions(score_threshold=0.2, iou_threshold=0.6, candidates=1000, detections=100)
CLASSES = 7


@pytest.fixture(scope="module")
def images(reference: Any) -> Tensor:
    return reference.photographs(5, SIZE)


def _lively(network: Any, reference: Any, images: Tensor) -> Any:
    """The network with weights with which it finds something in these images."""
    reference.enliven(network, images[:2])
    boxes = network.head.regression_head
    last = {
        network.head.classification_head.cls_logits: (-5.5, 2.0),
        boxes.bbox_reg: (2.0, 1.0),
        boxes.bbox_ctrness: (0.0, 1.0),
    }
    reference.spread(network, images[:2], last)
    return network


@pytest.fixture(scope="module")
def small(reference: Any, images: Tensor) -> Any:
    torch.manual_seed(0)
    network = fcos.FCOS(reference.resnet18_pyramid(), CLASSES).eval()
    return _lively(network, reference, images)


@pytest.fixture(scope="module")
def graph(small: Any, reference: Any, images: Tensor, tmp_path_factory: Any) -> Callable[[Any], Path]:
    """The ONNX graph of a lowering, exported once."""
    folder = tmp_path_factory.mktemp("fcos")

    @cache
    def exported(lowering: Any) -> Path:
        module = FCOS(small, replace(HOW, lowering=lowering), SIZE)
        path: Path = reference.export(module, images, folder / f"{lowering}.onnx")
        return path

    return exported


def test_torchvisions_detections_at_every_batch(reference: Any, images: Tensor) -> None:
    torch.manual_seed(0)
    network = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    _lively(network, reference, images)
    expected = reference.answers(network, HOW, images)
    module = FCOS(network, HOW, SIZE)
    assert set(module.state_dict()) == set(network.state_dict())
    for batch in (1, 2, 5):
        outputs = reference.infer(module, images[:batch])
        found = reference.agreement(expected[:batch], outputs)
        assert found.reached, found
        assert found.expected > 15 * batch
        assert reference.well_formed(outputs)
        assert not outputs[4].any()
    assert len(outputs[2].unique()) > 3


def test_a_level_sends_on_as_many_as_torchvisions(
    small: Any, reference: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbound = reference.answers(small, HOW, images)
    monkeypatch.setattr(small, "topk_candidates", 10)
    outputs = reference.infer(FCOS(small, HOW, SIZE), images)
    assert reference.agreement(reference.answers(small, HOW, images), outputs).reached
    assert not reference.agreement(unbound, outputs).reached
    # What torchvision drops as well is not missing.
    assert not outputs[4].any()


@pytest.mark.parametrize("lowering", ["static", "onnx"])
def test_onnx_runtime_finds_what_torchvision_finds(
    lowering: Any, graph: Any, small: Any, reference: Any, images: Tensor
) -> None:
    path = graph(lowering)
    expected = reference.answers(small, HOW, images)
    for batch in (1, 2, 5):
        outputs = reference.run(path, images[:batch])
        found = reference.agreement(expected[:batch], outputs)
        assert found.reached, found
        assert reference.well_formed(outputs)
    assert reference.well_formed(reference.run(path, torch.zeros(2, 3, *SIZE)))


def test_of_more_than_d_detections_the_best_are_kept(small: Any, reference: Any, images: Tensor) -> None:
    how = replace(HOW, detections=5)
    outputs = reference.infer(FCOS(small, how, SIZE), images)
    assert outputs[3].tolist() == [5] * 5
    assert reference.agreement(reference.answers(small, how, images), outputs).reached


def test_more_candidates_than_k_are_said_to_be_too_many(small: Any, reference: Any, images: Tensor) -> None:
    outputs = reference.infer(FCOS(small, replace(HOW, candidates=5), SIZE), images)
    assert outputs[4].all()
    assert reference.well_formed(outputs)
    none = reference.infer(FCOS(small, replace(HOW, candidates=5, score_threshold=0.9999), SIZE), images)
    assert not none[4].any()
    assert none[3].tolist() == [0] * 5


def test_the_static_lowering_builds_as_an_engine(graph: Any, reference: Any, tmp_path: Path) -> None:
    build = engine_from_onnx(
        graph("static"), EngineOptions("rtx", targets=("sm_86",)), tmp_path / "net.engine"
    )
    (entry,) = build.profiles[0].inputs
    assert (entry.min[0], entry.max[0]) == (1, 8)
    assert reference.forbidden(build.network) == []
