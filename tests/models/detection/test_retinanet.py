"""RetinaNet gives torchvision's detections: in torch, in ONNX Runtime, and as an engine that builds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import retinanet, retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2

from bbx.exporter.engine_options import EngineOptions
from bbx.exporter.to_engine import engine_from_onnx
from bbx.models.detection.options import DetectionOptions
from bbx.models.detection.retinanet import RetinaNet

SIZE = (96, 128)
HOW = DetectionOptions(score_threshold=0.05, iou_threshold=0.5, candidates=1500, detections=300)
CLASSES = 7


@pytest.fixture(scope="module")
def images(reference: Any) -> Tensor:
    return reference.photographs(5, SIZE)


def _lively(network: Any, reference: Any, images: Tensor) -> Any:
    """The network with weights with which it finds something in these images."""
    reference.enliven(network, images[:2])
    head = network.head
    last = {head.classification_head.cls_logits: (-7.5, 2.0), head.regression_head.bbox_reg: (0.0, 0.3)}
    reference.spread(network, images[:2], last)
    return network


@pytest.fixture(scope="module")
def small(reference: Any, images: Tensor) -> Any:
    torch.manual_seed(0)
    network = retinanet.RetinaNet(reference.resnet18_pyramid(), CLASSES).eval()
    return _lively(network, reference, images)


@pytest.fixture(scope="module")
def graph(small: Any, reference: Any, images: Tensor, tmp_path_factory: Any) -> Callable[[Any], Path]:
    """The ONNX graph of a lowering, exported once."""
    folder = tmp_path_factory.mktemp("retinanet")

    @cache
    def exported(lowering: Any) -> Path:
        module = RetinaNet(small, replace(HOW, lowering=lowering), SIZE)
        path: Path = reference.export(module, images, folder / f"{lowering}.onnx")
        return path

    return exported


@pytest.mark.parametrize("make", [retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2])
def test_torchvisions_detections_at_every_batch(make: Any, reference: Any, images: Tensor) -> None:
    torch.manual_seed(0)
    network = make(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    _lively(network, reference, images)
    expected = reference.answers(network, HOW, images)
    module = RetinaNet(network, HOW, SIZE)
    for batch in (1, 2, 5):
        outputs = reference.infer(module, images[:batch])
        found = reference.agreement(expected[:batch], outputs)
        assert found.reached, found
        assert found.expected > 20 * batch
        assert reference.well_formed(outputs)
        assert not outputs[4].any()
    assert len(outputs[2].unique()) > 3


def test_checkpoints_of_torchvision_load_key_for_key(small: Any, reference: Any, images: Tensor) -> None:
    other = RetinaNet(retinanet.RetinaNet(reference.resnet18_pyramid(), CLASSES).eval(), HOW, SIZE)
    assert other.load_state_dict(small.state_dict(), strict=True)
    wanted = reference.infer(RetinaNet(small, HOW, SIZE), images[:1])
    assert all(torch.equal(*pair) for pair in zip(reference.infer(other, images[:1]), wanted, strict=True))


def test_a_level_sends_on_as_many_as_torchvisions(
    small: Any, reference: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbound = reference.answers(small, HOW, images)
    monkeypatch.setattr(small, "topk_candidates", 30)
    expected = reference.answers(small, HOW, images)
    outputs = reference.infer(RetinaNet(small, HOW, SIZE), images)
    assert reference.agreement(expected, outputs).reached
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
    blank = reference.run(path, torch.zeros(2, 3, *SIZE))
    assert reference.well_formed(blank)
    assert reference.agreement(reference.answers(small, HOW, torch.zeros(2, 3, *SIZE)), blank).reached


def test_an_image_without_detections_is_all_padding(small: Any, reference: Any, images: Tensor) -> None:
    outputs = reference.infer(RetinaNet(small, replace(HOW, score_threshold=0.9999), SIZE), images[:2])
    assert [output.shape for output in outputs] == [(2, 300, 4), (2, 300), (2, 300), (2,), (2,)]
    assert reference.well_formed(outputs)
    assert outputs[3].tolist() == [0, 0]
    assert outputs[4].tolist() == [False, False]


def test_of_more_than_d_detections_the_best_are_kept(small: Any, reference: Any, images: Tensor) -> None:
    how = replace(HOW, detections=10)
    outputs = reference.infer(RetinaNet(small, how, SIZE), images)
    assert outputs[3].tolist() == [10] * 5
    assert reference.agreement(reference.answers(small, how, images), outputs).reached


def test_more_candidates_than_k_are_said_to_be_too_many(small: Any, reference: Any, images: Tensor) -> None:
    few = reference.infer(RetinaNet(small, replace(HOW, candidates=20), SIZE), images[:2])
    assert few[4].tolist() == [True, True]
    assert reference.well_formed(few)
    # Suppression looks at higher scores only: what was found is torchvision's, less what scores lower.
    full = reference.answers(small, HOW, images[:2])
    kept = [
        {name: values[: int(n)] for name, values in row.items()} for row, n in zip(full, few[3], strict=True)
    ]
    assert reference.agreement(kept, few).reached


def test_the_static_lowering_builds_as_an_engine(graph: Any, reference: Any, tmp_path: Path) -> None:
    build = engine_from_onnx(
        graph("static"), EngineOptions("rtx", targets=("sm_86",)), tmp_path / "net.engine"
    )
    assert build.plan_bytes > 10_000_000
    (entry,) = build.profiles[0].inputs
    assert (entry.min[0], entry.max[0]) == (1, 8)
    assert reference.forbidden(build.network) == []
    assert [spec.shape for spec in build.network.outputs] == [
        (None, 300, 4),
        (None, 300),
        (None, 300),
        (None,),
        (None,),
    ]
