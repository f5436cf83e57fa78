"""Detectors and a segmenter that learnt scenes of digits: what they find survives every form they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

import bbx
from bbx.errors import CheckFailed
from bbx.exporter.detections import DETECTION_TOLERANCES, compare_detections
from bbx.exporter.to_typed import TypedGraph, typed_from_onnx
from bbx.exporter.verify import Case
from bbx.images import photographs
from bbx.models.build import Model
from bbx.outputs import Detected, Segmented, restore
from bbx.pipeline import typed
from bbx.pipeline.steps import TypedStep
from bbx.runners.base import Runner
from bbx.runners.ort import OrtRunner
from bbx.runners.registry import open_runner
from tests.scenes.coco import mean_ap
from tests.scenes.compose import Scene, coco_dataset, scenes
from tests.scenes.evaluate import detect, mean_iou
from tests.scenes.train import CLASSES, RECIPES, Name, trained

POINTS = 0.002
"""mAP that a form may differ by from torchvision's FP32."""
EIGHT_BIT_POINTS = 0.005
"""mAP that eight bits may cost."""
SCENES = 32
BATCHES = (1, 2, 5)
PRESETS: dict[Name, str] = {
    "fasterrcnn": "fasterrcnn_r18_fpn",
    "ssdlite": "ssdlite320_mobilenet_v3_large",
    "segmenter": "lraspp_mobilenet_v3_large",
}
FORMS: dict[str, dict[str, Any]] = {
    "torchscript": {"format": "torchscript"},
    "onnx": {"lowering": "onnx"},
    "static": {"lowering": "static"},
    "fp16": {"lowering": "static", "precision": "fp16"},
    "fp16 onnx": {"lowering": "onnx", "precision": "fp16"},
}
DETECTORS: tuple[Name, ...] = ("fasterrcnn", "ssdlite")

pytestmark = [
    pytest.mark.timeout(3600),  # a first run trains, for minutes on two idle cores
    pytest.mark.usefixtures("inline_tasks"),
]


@dataclass(frozen=True)
class Learnt:
    """A trained model, as torchvision has it and as bbx builds it, with scenes that it has not seen."""

    name: Name
    network: torch.nn.Module
    options: dict[str, Any]
    model: Model
    composed: list[Scene]
    folder: Path

    @cached_property
    def theirs(self) -> float:
        """mAP@0.5 of torchvision's own, on the scenes."""
        return mean_ap(coco_dataset(self.composed), detect(self.network, self.composed))["mAP50"]

    @contextmanager
    def opened(self, form: str) -> Iterator[Runner]:
        """A runner of the model in one of `FORMS`, made when it is first asked for."""
        made = bbx.export(PRESETS[self.name], **self.options, **FORMS[form], out=self.folder)
        runtime = "torchscript" if form == "torchscript" else "ort-cpu"
        with open_runner(runtime, Path(made["artifact"])) as runner:
            yield runner


@pytest.fixture(scope="module", params=DETECTORS)
def learnt(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    return _learnt(request.param, tmp_path_factory.mktemp(request.param))


def _learnt(name: Name, folder: Path) -> Learnt:
    network, checkpoint = trained(name)
    size = RECIPES[name].size
    options: dict[str, Any] = {"weights": str(checkpoint), "num_classes": CLASSES}
    options |= {} if name == "ssdlite" else {"image_size": size}
    return Learnt(
        name=name,
        network=network,
        options=options,
        model=bbx.build(PRESETS[name], **options),
        composed=scenes(SCENES, 0, "test", size),
        folder=folder,
    )


def _infer(runner: Runner, feed: np.ndarray[Any, Any], batch: int = 8) -> dict[str, np.ndarray[Any, Any]]:
    """All rows of the feed, in batches."""
    parts = [runner.infer({"images": feed[start : start + batch]}) for start in range(0, len(feed), batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _feed(learnt: Learnt) -> np.ndarray[Any, Any]:
    from bbx.images import apply

    return np.stack(
        [apply(Image.fromarray(scene.image), learnt.model.preprocess) for scene in learnt.composed]
    )


def _mean_ap(learnt: Learnt, found: Sequence[Any]) -> float:
    """mAP@0.5 of what `bbx.outputs.restore` gave."""
    results = [{"boxes": each.boxes, "scores": each.scores, "labels": each.labels} for each in found]
    return mean_ap(coco_dataset(learnt.composed), results)["mAP50"]


@pytest.mark.parametrize("form", FORMS)
def test_a_detector_finds_in_every_form_what_torchvision_finds(learnt: Learnt, form: str) -> None:
    with learnt.opened(form) as runner:
        outputs = _infer(runner, _feed(learnt))
    assert learnt.model.postprocess is not None
    sizes = [(scene.image.shape[1], scene.image.shape[0]) for scene in learnt.composed]
    found = restore(outputs, learnt.model.preprocess, learnt.model.postprocess, sizes)
    assert all(isinstance(each, Detected) for each in found)
    assert learnt.theirs > 0.6
    assert _mean_ap(learnt, found) == pytest.approx(learnt.theirs, abs=POINTS)


@pytest.mark.parametrize("form", ["onnx", "static"])
def test_detections_match_torchvisions_one_by_one(learnt: Learnt, form: str) -> None:
    """On 32 scenes and the photographs, in batches of 1, 2 and 5 by turns."""
    pictures = bbx.preprocess(photographs(), _manifest(learnt, form))
    feed = np.concatenate([_feed(learnt)[:32], pictures])
    cases, references = [], []
    turns, start = cycle(BATCHES), 0
    while start < len(feed):
        rows = feed[start : start + next(turns)]
        start += len(rows)
        cases.append(Case(len(rows), "scenes", {"images": rows}))
        references.append(_reference(learnt.model, rows))
    threshold = learnt.model.postprocess.score_threshold if learnt.model.postprocess else None
    with learnt.opened(form) as runner:
        parity = compare_detections(
            cases,
            references,
            runner.infer,
            DETECTION_TOLERANCES["fp32"],
            against="torchvision",
            threshold=threshold or 0.0,
        )
    assert (parity.verdict, parity.reasons) == ("pass", ())
    assert sum(case["detections"]["matched"] for case in parity.cases) > len(feed)


def _manifest(learnt: Learnt, form: str) -> Path:
    return Path(
        bbx.export(PRESETS[learnt.name], **learnt.options, **FORMS[form], out=learnt.folder)["artifact"]
    )


def _reference(model: Model, rows: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    assert model.reference is not None
    with torch.inference_mode():
        given = model.reference(torch.from_numpy(rows))
    return {spec.name: value.numpy() for spec, value in zip(model.outputs, given, strict=True)}


@pytest.mark.parametrize("form", ["onnx", "static"])
def test_blank_images_give_well_formed_outputs(learnt: Learnt, form: str) -> None:
    shape = (2, *(side for side in learnt.model.inputs[0].shape[1:] if side is not None))
    with learnt.opened(form) as runner:
        outputs = runner.infer({"images": np.zeros(shape, np.float32)})
    counts = outputs["num_detections"]
    assert counts.shape == (2,)
    for row, count in enumerate(counts):
        assert (outputs["labels"][row, count:] == -1).all()
        assert (outputs["scores"][row, count:] == 0).all()
        assert (outputs["labels"][row, :count] > 0).all()


@pytest.mark.parametrize("learnt", ["fasterrcnn"], indirect=True)
def test_a_broken_graph_is_not_excused_by_detections_that_noise_changes(
    learnt: Learnt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classes of the second stage change places, of which the heads of the first know nothing."""
    made = bbx.export(PRESETS["fasterrcnn"], **learnt.options, lowering="onnx", out=learnt.folder)

    def broken(*arguments: Any, **options: Any) -> TypedGraph:
        graph = typed_from_onnx(*arguments, **options)
        (bias,) = [t for t in graph.model.graph.initializer if t.name.endswith("cls_score.bias")]
        (weight,) = [t for t in graph.model.graph.initializer if t.name.endswith("cls_score.weight")]
        for tensor in (bias, weight):
            values = numpy_helper.to_array(tensor).copy()
            values[1:] = np.roll(values[1:], 1, axis=0)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return graph

    monkeypatch.setattr(typed, "typed_from_onnx", broken)
    step = TypedStep("a test", Path(made["artifact"]), "fp16")
    with pytest.raises(CheckFailed, match=r"of \d+ detections are matched"):
        typed.typed_task({"step": step.to_request(), "path": str(learnt.folder / "broken.onnx")})


@pytest.mark.parametrize("learnt", ["ssdlite"], indirect=True)
def test_a_detector_in_eight_bits_keeps_its_map(learnt: Learnt, tmp_path: Path) -> None:
    """Calibrated on scenes that it was trained on, judged on others."""
    folder = tmp_path / "calibration"
    folder.mkdir()
    for number, scene in enumerate(scenes(24, 1000, "train", RECIPES["ssdlite"].size)):
        Image.fromarray(scene.image).save(folder / f"{number:03d}.png")
    options = {**learnt.options, "lowering": "onnx"}
    made = bbx.quantize(PRESETS["ssdlite"], **options, calib=folder, out=learnt.folder)
    assert made["parity"]["verdict"] == "pass"
    assert len(made["quantized_nodes"]) > len(made["kept_nodes"])
    with OrtRunner(Path(made["artifact"]), exact=True) as runner:
        outputs = _infer(runner, _feed(learnt))
    assert learnt.model.postprocess is not None
    sizes = [(scene.image.shape[1], scene.image.shape[0]) for scene in learnt.composed]
    found = restore(outputs, learnt.model.preprocess, learnt.model.postprocess, sizes)
    assert _mean_ap(learnt, found) > learnt.theirs - EIGHT_BIT_POINTS


@pytest.mark.parametrize("form", ["onnx", "fp16 onnx"])
def test_the_segmenter_sees_in_every_form_what_torchvision_sees(
    form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    learnt = _learnt("segmenter", tmp_path_factory.mktemp("segmenter"))
    options = {key: value for key, value in FORMS[form].items() if key != "lowering"}
    made = bbx.export(PRESETS["segmenter"], **learnt.options, **options, out=learnt.folder)
    with open_runner("ort-cpu", Path(made["artifact"])) as runner:
        outputs = _infer(runner, _feed(learnt))
    assert learnt.model.postprocess is not None
    sizes = [(scene.image.shape[1], scene.image.shape[0]) for scene in learnt.composed]
    found = restore(outputs, learnt.model.preprocess, learnt.model.postprocess, sizes)
    labels = np.stack([each.labels for each in found if isinstance(each, Segmented)])
    masks = np.stack([scene.mask for scene in learnt.composed])
    with torch.inference_mode():
        parts = torch.from_numpy(_feed(learnt)).split(8)
        theirs = torch.cat([learnt.network(part)["out"].argmax(1) for part in parts]).numpy()
    assert mean_iou(masks, labels) == pytest.approx(mean_iou(masks, theirs), abs=POINTS)
    assert mean_iou(masks, theirs) > 0.4
