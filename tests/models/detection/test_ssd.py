"""SSD and SSDlite give torchvision's detections: in torch, in ONNX Runtime, and as an engine that builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large

from bbx.exporter.engine_options import EngineOptions
from bbx.exporter.to_engine import engine_from_onnx
from bbx.models.detection.options import DetectionOptions
from bbx.models.detection.ssd import SSD

SIZE = (320, 320)
HOW = DetectionOptions(score_threshold=0.05, iou_threshold=0.5, candidates=1600, detections=200)
CLASSES = 7


def _last(layer: nn.Module) -> nn.Conv2d:
    return [part for part in layer.modules() if isinstance(part, nn.Conv2d)][-1]


@torch.no_grad()
def _lively(network: Any, reference: Any, images: Tensor) -> Any:
    """The network with weights with which it finds something in these images, and mostly background."""
    reference.enliven(network, images)
    classes = [_last(layer) for layer in network.head.classification_head.module_list]
    boxes = [_last(layer) for layer in network.head.regression_head.module_list]
    reference.spread(network, images, dict.fromkeys(classes, (0.0, 1.5)) | dict.fromkeys(boxes, (0.0, 1.0)))
    for layer in classes:
        layer.bias.view(-1, CLASSES)[:, 0] += 7.0
    return network


@pytest.fixture(scope="module")
def images(reference: Any) -> Tensor:
    return reference.photographs(5, SIZE)


@pytest.fixture(scope="module")
def crowded(images: Tensor) -> Tensor:
    """Those in which the network finds hundreds of boxes; in the others it finds a few."""
    return images[::2]


@pytest.fixture(scope="module")
def lite(reference: Any, images: Tensor) -> Any:
    torch.manual_seed(0)
    network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    return _lively(network, reference, images)


@pytest.fixture(scope="module")
def graph(lite: Any, reference: Any, images: Tensor, tmp_path_factory: Any) -> Callable[[Any], Path]:
    """The ONNX graph of a lowering, exported once."""
    folder = tmp_path_factory.mktemp("ssd")

    @cache
    def exported(lowering: Any) -> Path:
        module = SSD(lite, replace(HOW, lowering=lowering), SIZE)
        path: Path = reference.export(module, images, folder / f"{lowering}.onnx")
        return path

    return exported


@pytest.fixture(scope="module")
def expected(lite: Any, reference: Any, images: Tensor) -> list[Mapping[str, Tensor]]:
    return reference.answers(lite, HOW, images)


def _check(module: SSD, expected: Any, reference: Any, images: Tensor) -> None:
    for batch in (1, 2, 5):
        outputs = reference.infer(module, images[:batch])
        found = reference.agreement(expected[:batch], outputs)
        assert found.reached, found
        assert found.expected > 20 * batch
        assert reference.well_formed(outputs)
        assert not outputs[4].any()
    assert not (outputs[2] == 0).any()
    assert len(outputs[2].unique()) > 3


def test_ssdlite_gives_torchvisions_detections(
    lite: Any, expected: Any, reference: Any, images: Tensor
) -> None:
    module = SSD(lite, HOW, SIZE)
    assert set(module.state_dict()) == set(lite.state_dict())
    _check(module, expected, reference, images)


def test_ssd300_gives_torchvisions_detections(reference: Any) -> None:
    torch.manual_seed(0)
    network = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    images = reference.photographs(5, (300, 300))
    _lively(network, reference, images[:2])
    module = SSD(network, HOW, (300, 300))
    assert set(module.state_dict()) == set(network.state_dict())
    _check(module, reference.answers(network, HOW, images), reference, images)


def test_a_class_sends_on_as_many_as_torchvisions(
    lite: Any, expected: Any, reference: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lite, "topk_candidates", 10)
    outputs = reference.infer(SSD(lite, HOW, SIZE), images)
    assert reference.agreement(reference.answers(lite, HOW, images), outputs).reached
    assert not reference.agreement(expected, outputs).reached
    # What torchvision drops as well is not missing.
    assert not outputs[4].any()


@pytest.mark.parametrize("lowering", ["static", "onnx"])
def test_onnx_runtime_finds_what_torchvision_finds(
    lowering: Any, graph: Any, lite: Any, reference: Any, images: Tensor
) -> None:
    path = graph(lowering)
    expected = reference.answers(lite, HOW, images)
    for batch in (1, 2, 5):
        outputs = reference.run(path, images[:batch])
        found = reference.agreement(expected[:batch], outputs)
        assert found.reached, found
        assert reference.well_formed(outputs)
    assert reference.well_formed(reference.run(path, torch.zeros(2, 3, *SIZE)))


def test_an_image_without_detections_is_all_padding(lite: Any, reference: Any, images: Tensor) -> None:
    outputs = reference.infer(SSD(lite, replace(HOW, score_threshold=0.9999), SIZE), images[:2])
    assert [output.shape for output in outputs] == [(2, 200, 4), (2, 200), (2, 200), (2,), (2,)]
    assert reference.well_formed(outputs)
    assert outputs[3].tolist() == [0, 0]
    assert outputs[4].tolist() == [False, False]


def test_of_more_than_d_detections_the_best_are_kept(lite: Any, reference: Any, crowded: Tensor) -> None:
    how = replace(HOW, detections=10)
    outputs = reference.infer(SSD(lite, how, SIZE), crowded)
    assert outputs[3].tolist() == [10] * 3
    assert reference.agreement(reference.answers(lite, how, crowded), outputs).reached


def test_a_saturated_image_that_fills_its_rows_has_torchvisions_detections(
    lite: Any, reference: Any, crowded: Tensor
) -> None:
    how = replace(HOW, detections=10, candidates=100)
    outputs = reference.infer(SSD(lite, how, SIZE), crowded)
    assert outputs[4].all()
    assert outputs[3].tolist() == [10] * 3
    assert reference.agreement(reference.answers(lite, how, crowded), outputs).reached


def test_what_a_saturated_image_lacks_scores_below_what_it_has(
    lite: Any, reference: Any, crowded: Tensor
) -> None:
    expected = reference.answers(lite, HOW, crowded)
    outputs = reference.infer(SSD(lite, replace(HOW, candidates=30), SIZE), crowded)
    assert outputs[4].all()
    counts = outputs[3].tolist()
    assert all(count < len(theirs["scores"]) for count, theirs in zip(counts, expected, strict=True))
    best = [
        {name: values[:count] for name, values in theirs.items()}
        for theirs, count in zip(expected, counts, strict=True)
    ]
    assert reference.agreement(best, outputs).reached


def test_the_static_lowering_builds_as_an_engine(graph: Any, reference: Any, tmp_path: Path) -> None:
    build = engine_from_onnx(
        graph("static"), EngineOptions("rtx", targets=("sm_86",)), tmp_path / "net.engine"
    )
    (entry,) = build.profiles[0].inputs
    assert (entry.min[0], entry.max[0]) == (1, 8)
    assert reference.forbidden(build.network) == []
    shapes = [spec.shape for spec in build.network.outputs]
    assert shapes == [(None, 200, 4), (None, 200), (None, 200), (None,), (None,)]
