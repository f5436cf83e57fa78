"""RetinaNet, FCOS, SSD and SSDlite give torchvision's detections in torch, ONNX Runtime, and as engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection as zoo

from bbx.exporter.engine_options import EngineOptions
from bbx.exporter.to_engine import engine_from_onnx
from bbx.models.detection.fcos import FCOS
from bbx.models.detection.options import DetectionOptions
from bbx.models.detection.retinanet import RetinaNet
from bbx.models.detection.ssd import SSD

CLASSES = 7
Answers = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A detector without a second stage.

    Attributes:
        form: bbx's form of it.
        how: with which no limit is reached.
        size: height and width of its images.
        small: makes torchvision's network, a small one; given the fixture `reference`.
        own: torchvision's functions for the whole networks, and the size of their images.
        last: of a network, the last layers of its head, each with the mean and the spread that its outputs
            are given, so that something is found and not everything.
        least: detections in an image, at least.
        level: fewer than torchvision sends on from a level, or of a class, by itself.
    """

    form: Any
    how: DetectionOptions
    size: tuple[int, int]
    small: Callable[[Any], Any]
    own: tuple[tuple[Callable[..., Any], tuple[int, int]], ...]
    last: Callable[[Any], dict[nn.Module, tuple[float, float]]]
    least: int
    level: int


def _last_of_fcos(network: Any) -> dict[nn.Module, tuple[float, float]]:
    boxes = network.head.regression_head
    return {
        network.head.classification_head.cls_logits: (-5.5, 2.0),
        boxes.bbox_reg: (2.0, 1.0),
        boxes.bbox_ctrness: (0.0, 1.0),
    }


def _last_of_retinanet(network: Any) -> dict[nn.Module, tuple[float, float]]:
    head = network.head
    return {head.classification_head.cls_logits: (-7.5, 2.0), head.regression_head.bbox_reg: (0.0, 0.3)}


def _last_of_ssd(network: Any) -> dict[nn.Module, tuple[float, float]]:
    classes = map(_convolution, network.head.classification_head.module_list)
    boxes = map(_convolution, network.head.regression_head.module_list)
    return dict.fromkeys(classes, (0.0, 1.5)) | dict.fromkeys(boxes, (0.0, 1.0))


def _convolution(layer: nn.Module) -> nn.Conv2d:
    return [part for part in layer.modules() if isinstance(part, nn.Conv2d)][-1]


SMALL, LITE = (96, 128), (320, 320)
CROWDED = slice(None, None, 2)
"""Of the five photographs those in which all of the networks find many boxes."""
KINDS = {
    "fcos": Kind(
        FCOS,
        DetectionOptions(score_threshold=0.2, iou_threshold=0.6, candidates=1000, detections=100),
        SMALL,
        lambda reference: zoo.FCOS(reference.resnet18_pyramid(), CLASSES),
        ((zoo.fcos_resnet50_fpn, SMALL),),
        _last_of_fcos,
        least=15,
        level=10,
    ),
    "retinanet": Kind(
        RetinaNet,
        DetectionOptions(score_threshold=0.05, iou_threshold=0.5, candidates=1500, detections=300),
        SMALL,
        lambda reference: zoo.RetinaNet(reference.resnet18_pyramid(), CLASSES),
        ((zoo.retinanet_resnet50_fpn, SMALL), (zoo.retinanet_resnet50_fpn_v2, SMALL)),
        _last_of_retinanet,
        least=20,
        level=30,
    ),
    "ssd": Kind(
        SSD,
        DetectionOptions(score_threshold=0.05, iou_threshold=0.5, candidates=1600, detections=200),
        LITE,
        lambda _: _untrained(zoo.ssdlite320_mobilenet_v3_large),
        ((zoo.ssdlite320_mobilenet_v3_large, LITE), (zoo.ssd300_vgg16, (300, 300))),
        _last_of_ssd,
        least=20,
        level=10,
    ),
}


def _untrained(make: Callable[..., Any]) -> Any:
    return make(weights=None, weights_backbone=None, num_classes=CLASSES)


def _lively(network: Any, kind: Kind, reference: Any, images: Tensor) -> Any:
    """The network with weights with which it finds something in these images, and mostly background."""
    reference.enliven(network, images)
    reference.spread(network, images, kind.last(network))
    if kind.form is SSD:
        with torch.no_grad():
            for layer in map(_convolution, network.head.classification_head.module_list):
                layer.bias.view(-1, CLASSES)[:, 0] += 7.0  # type: ignore[union-attr]
    return network


@dataclass(frozen=True)
class Case:
    """A small network with photographs, and what torchvision finds in them."""

    kind: Kind
    network: Any
    images: Tensor
    expected: Answers
    reference: Any
    graph: Callable[[str], Path]

    def found(self, images: Tensor | None = None, **changes: Any) -> Any:
        """What bbx's form finds, with other options."""
        module = self.kind.form(self.network, replace(self.kind.how, **changes), self.kind.size)
        return self.reference.infer(module, self.images if images is None else images)

    def wanted(self, images: Tensor | None = None, **changes: Any) -> Any:
        """What torchvision finds, with other options."""
        images = self.images if images is None else images
        return self.reference.answers(self.network, replace(self.kind.how, **changes), images)


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Case:
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp(request.param)
    images = reference.photographs(5, kind.size)
    torch.manual_seed(0)
    enough = images if kind.form is SSD else images[:2]
    network = _lively(kind.small(reference).eval(), kind, reference, enough)

    @cache
    def graph(lowering: Any) -> Path:
        """The ONNX graph of a lowering, exported once."""
        module = kind.form(network, replace(kind.how, lowering=lowering), kind.size)
        path: Path = reference.export(module, images, folder / f"{lowering}.onnx")
        return path

    expected = reference.answers(network, kind.how, images)
    return Case(kind, network, images, expected, reference, graph)


@pytest.mark.parametrize(
    ("kind", "make", "size"),
    [pytest.param(kind, *own, id=own[0].__name__) for kind in KINDS.values() for own in kind.own],
)
def test_torchvisions_detections_at_every_batch(
    kind: Kind, make: Callable[..., Any], size: tuple[int, int], reference: Any
) -> None:
    images = reference.photographs(5, size)
    torch.manual_seed(0)
    network = _lively(_untrained(make).eval(), kind, reference, images[:2])
    expected = reference.answers(network, kind.how, images)
    module = kind.form(network, kind.how, size)
    assert set(module.state_dict()) == set(network.state_dict())
    for batch in (1, 2, 5):
        outputs = reference.infer(module, images[:batch])
        found = reference.agreement(expected[:batch], outputs)
        assert found.reached, found
        assert found.expected > kind.least * batch
        assert reference.well_formed(outputs)
        assert not outputs[4].any()
    assert len(outputs[2].unique()) > 3


def test_checkpoints_of_torchvision_load_key_for_key(case: Case) -> None:
    untrained = case.kind.small(case.reference).eval()
    other = case.kind.form(untrained, case.kind.how, case.kind.size)
    assert other.load_state_dict(case.network.state_dict(), strict=True)
    images = case.images[:1]
    pairs = zip(case.reference.infer(other, images), case.found(images), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_a_level_sends_on_as_many_as_torchvisions(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case.network, "topk_candidates", case.kind.level)
    outputs = case.found()
    assert case.reference.agreement(case.wanted(), outputs).reached
    assert not case.reference.agreement(case.expected, outputs).reached
    # What torchvision drops as well is not missing.
    assert not outputs[4].any()


@pytest.mark.parametrize("lowering", ["static", "onnx"])
def test_onnx_runtime_finds_what_torchvision_finds(lowering: str, case: Case) -> None:
    path = case.graph(lowering)
    for batch in (1, 2, 5):
        outputs = case.reference.run(path, case.images[:batch])
        found = case.reference.agreement(case.expected[:batch], outputs)
        assert found.reached, found
        assert case.reference.well_formed(outputs)
    blank = torch.zeros(2, 3, *case.kind.size)
    outputs = case.reference.run(path, blank)
    assert case.reference.well_formed(outputs)
    expected = case.reference.answers(case.network, case.kind.how, blank)
    assert case.reference.agreement(expected, outputs).reached


def test_an_image_without_detections_is_all_padding(case: Case) -> None:
    rows = case.kind.how.detections
    outputs = case.found(case.images[:2], score_threshold=0.9999)
    assert [output.shape for output in outputs] == [(2, rows, 4), (2, rows), (2, rows), (2,), (2,)]
    assert case.reference.well_formed(outputs)
    assert outputs[3].tolist() == [0, 0]
    assert outputs[4].tolist() == [False, False]


def test_of_more_than_d_detections_the_best_are_kept(case: Case) -> None:
    outputs = case.found(case.images[CROWDED], detections=5)
    assert outputs[3].tolist() == [5] * 3
    assert case.reference.agreement(case.wanted(case.images[CROWDED], detections=5), outputs).reached


def test_a_saturated_image_says_so_and_has_the_best_of_torchvisions(case: Case) -> None:
    images, expected = case.images[CROWDED], case.expected[CROWDED]
    outputs = case.found(images, candidates=20)
    counts = outputs[3].tolist()
    assert case.reference.well_formed(outputs)
    assert outputs[4].all()
    # Suppression looks at higher scores only: what was found is torchvision's, less what scores lower.
    best = [
        {name: values[:count] for name, values in theirs.items()}
        for theirs, count in zip(expected, counts, strict=True)
    ]
    assert all(count < len(theirs["scores"]) for count, theirs in zip(counts, expected, strict=True))
    assert case.reference.agreement(best, outputs).reached
    # Where the rows are full all the same, nothing is missing.
    full = case.found(images, candidates=100, detections=5)
    assert full[3].tolist() == [5] * 3
    assert case.reference.agreement(case.wanted(images, detections=5), full).reached


def test_the_static_lowering_builds_as_an_engine(case: Case, tmp_path: Path) -> None:
    build = engine_from_onnx(
        case.graph("static"), EngineOptions("rtx", targets=("sm_86",)), tmp_path / "net.engine"
    )
    (entry,) = build.profiles[0].inputs
    assert (entry.min[0], entry.max[0]) == (1, 8)
    assert case.reference.forbidden(build.network) == []
    rows = case.kind.how.detections
    shapes = [spec.shape for spec in build.network.outputs]
    assert shapes == [(None, rows, 4), (None, rows), (None, rows), (None,), (None,)]
