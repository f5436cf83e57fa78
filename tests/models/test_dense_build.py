"""Detectors and segmenters from their presets: defaults, checkpoints of torchvision, other backbones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.models._api import WeightsEnum
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from bbx import process
from bbx.artifact import WeightsFile, sha256_of
from bbx.errors import ModelError, UsageError, WeightsError
from bbx.exporter.detections import DETECTION_TOLERANCES, compare_detections
from bbx.exporter.verify import Case
from bbx.images import photograph_batch
from bbx.models.build import Model, build
from bbx.models.caches import weights_at_hand
from bbx.models.registry import preset, presets
from bbx.models.spec import ModelSpec, Preset

OF_TORCHVISION = [
    pytest.param(entry, id=entry.name)
    for task in ("detection", "segmentation")
    for entry in presets(task)
    if entry.library == "torchvision"
]
SIZE = (64, 96)
SIZES = {"fasterrcnn_mobilenet_v3_large_320_fpn": (192, 256)}
"""Where its one map is no coarser than some boxes: else many score alike, and which one is kept is chance."""

# One of each family, the lightest, or the one whose published checkpoint is of its own kind.
DETECTORS = (
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "retinanet_r50_fpn",
    "fcos_r50_fpn",
    "ssdlite320_mobilenet_v3_large",
)
FAMILIES = (
    *DETECTORS,
    "fasterrcnn_r50_fpn_v2",
    "maskrcnn_r50_fpn",
    "keypointrcnn_r50_fpn",
    "ssd300_vgg16",
    "fcn_resnet50",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)


def torchvisions(entry: Preset, **options: Any) -> Any:
    """torchvision's own network, without the memory that its weights would take."""
    with torch.device("meta"):
        return get_model(entry.architecture, weights=None, weights_backbone=None, **options)


def zeros(network: nn.Module) -> dict[str, torch.Tensor]:
    """A state dict of the network's keys and shapes."""
    return {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in network.state_dict().items()}


def size_of(name: str) -> tuple[int, int] | None:
    return None if preset(name).fixed_size else SIZES.get(name, SIZE)


# --- defaults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", OF_TORCHVISION)
def test_defaults_are_torchvisions(entry: Preset) -> None:
    network = torchvisions(entry)
    weights = get_model_weights(entry.architecture).DEFAULT
    assert entry.num_classes == len(weights.meta["categories"])
    if entry.task == "segmentation":
        how = weights.transforms()
        assert [entry.preprocess.height] == how.resize_size
        assert (list(entry.preprocess.mean), list(entry.preprocess.std)) == (how.mean, how.std)
        return
    owner = getattr(network, "roi_heads", network)
    assert entry.detection is not None
    assert entry.detection.score_threshold == owner.score_thresh
    assert entry.detection.iou_threshold == owner.nms_thresh
    assert entry.detection.detections == owner.detections_per_img
    assert list(entry.preprocess.mean) == pytest.approx(network.transform.image_mean)
    assert list(entry.preprocess.std) == pytest.approx(network.transform.image_std)
    # Keypoint R-CNN is trained at several sizes, and evaluated at the last.
    assert entry.preprocess.height == network.transform.min_size[-1]


# --- checkpoints ------------------------------------------------------------------------------------


def found_alike(model: Model) -> str:
    """The verdict on a detector against torchvision's, on photographs."""
    assert model.reference is not None
    pictures = photograph_batch(model.preprocess, 2)
    names = [spec.name for spec in model.outputs]

    def infer(module: nn.Module, feeds: Any) -> dict[str, Any]:
        with torch.inference_mode():
            outputs = module(torch.from_numpy(feeds["images"]))
        return dict(zip(names, (output.numpy() for output in outputs), strict=True))

    cases = [Case(2, "photographs", {"images": pictures})]
    wanted = [infer(model.reference, case.feeds) for case in cases]
    tolerance = DETECTION_TOLERANCES["fp32"]
    parity = compare_detections(
        cases, wanted, lambda feeds: infer(model.module, feeds), tolerance, against="torchvision"
    )
    return parity.verdict


@pytest.mark.parametrize("name", DETECTORS)
def test_torchvisions_checkpoint_finds_what_torchvision_finds(name: str, tmp_path: Path) -> None:
    made = build(ModelSpec(name, weights="random", image_size=size_of(name)))
    assert any("candidates" in note for note in made.notes)
    theirs: Any = made.reference
    state = {key: value.clone() for key, value in theirs.network.state_dict().items()}
    assert state.keys() == torchvisions(preset(name)).state_dict().keys()
    # A frozen batch norm, as torchvision trains and publishes detectors with, counts no batches.
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"net{suffix}"
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        model = build(ModelSpec(name, weights=str(path), image_size=size_of(name)))
        assert model.weights == WeightsFile(path=str(path), sha256=sha256_of(path))
        assert model.notes == ()
        own = model.module.state_dict()
        assert all(torch.equal(own[key], value) for key, value in state.items())
    assert found_alike(model) == "pass"


def other_classes(name: str) -> dict[str, torch.Tensor]:
    entry = preset(name)
    if entry.library == "torchvision":
        return zeros(torchvisions(entry, num_classes=5))
    spec = ModelSpec(name, weights="random", num_classes=5, image_size=SIZE)
    return dict(build(spec).module.state_dict())


@pytest.mark.parametrize("name", [*FAMILIES, "unet_resnet34", "semantic_fpn_resnet50"])
def test_a_checkpoint_of_other_classes_says_what_to_type(name: str, tmp_path: Path) -> None:
    path = tmp_path / "five.safetensors"
    save_file(other_classes(name), path)
    with pytest.raises(WeightsError) as caught:
        build(ModelSpec(name, weights=str(path), image_size=size_of(name)))
    assert caught.value.hint == "Type: --num-classes 5"
    assert f"5 classes, and the model one of {preset(name).num_classes}" in caught.value.message
    model = build(ModelSpec(name, weights=str(path), image_size=size_of(name), num_classes=5))
    assert model.postprocess is not None
    assert model.postprocess.num_classes == 5
    path.unlink()  # hundreds of megabytes each


def test_a_checkpoint_of_other_keypoints_says_what_to_type(tmp_path: Path) -> None:
    path = tmp_path / "four.safetensors"
    save_file(zeros(torchvisions(preset("keypointrcnn_r50_fpn"), num_keypoints=4)), path)
    with pytest.raises(WeightsError, match="finds 4 keypoints, and the model 17") as caught:
        build(ModelSpec("keypointrcnn_r50_fpn", weights=str(path), image_size=SIZE))
    assert caught.value.hint == "Type: --num-keypoints 4"


def test_a_classifiers_checkpoint_is_none_of_a_detector(tmp_path: Path) -> None:
    with torch.device("meta"):
        classifier = get_model("resnet18")
    save_file(zeros(classifier), tmp_path / "net.safetensors")
    with pytest.raises(WeightsError, match="missing"):
        build(ModelSpec("fcos_r50_fpn", weights=str(tmp_path / "net.safetensors"), image_size=SIZE))


# --- published weights ------------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, and a proxy that nobody listens on."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


def publish(monkeypatch: pytest.MonkeyPatch, cache: Path, architecture: str, state: Any) -> Path:
    """Put a state dict where torch keeps what torchvision publishes for the architecture."""
    folder = cache / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / "new")
    path = (folder / "new").rename(folder / f"{architecture}_coco-{sha256_of(folder / 'new')[:8]}.pth")
    monkeypatch.setattr(get_model_weights(architecture), "url", f"https://example.org/{path.name}")
    return path


def epsilons(network: Any) -> dict[str, float]:
    return {
        name: part.eps
        for name, part in network.named_modules()
        if isinstance(part, FrozenBatchNorm2d | nn.BatchNorm2d)
    }


@pytest.mark.parametrize(
    "name",
    [
        "fasterrcnn_r50_fpn",
        "fasterrcnn_r50_fpn_v2",
        "maskrcnn_r50_fpn",
        "keypointrcnn_r50_fpn",
        "retinanet_r50_fpn",
        "retinanet_r50_fpn_v2",
        "fcos_r50_fpn",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "ssdlite320_mobilenet_v3_large",
    ],
)
def test_published_weights_come_with_the_epsilon_that_they_were_trained_with(
    name: str, offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = preset(name)
    with monkeypatch.context() as patch, torch.device("meta"):
        bare = torchvisions(entry).state_dict()
        patch.setattr(WeightsEnum, "get_state_dict", lambda *_given, **_named: bare)
        theirs = get_model(entry.architecture, weights="DEFAULT")
    path = publish(monkeypatch, offline, entry.architecture, zeros(theirs))
    assert weights_at_hand(name)[0] == path.name
    for policy in ("auto", "pretrained"):
        model = build(ModelSpec(name, weights=policy, image_size=size_of(name)))
        assert model.weights == "pretrained"
        wanted = epsilons(theirs)
        assert wanted
        assert epsilons(model.module) == wanted
    path.unlink()


def test_a_segmenters_published_weights_may_hold_what_helps_in_training_only(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = preset("deeplabv3_mobilenet_v3_large")
    state = zeros(torchvisions(entry, aux_loss=True))
    assert any(key.startswith("aux_classifier.") for key in state)
    publish(monkeypatch, offline, entry.architecture, state)
    model = build(ModelSpec(entry.name, weights="pretrained", image_size=SIZE))
    assert model.weights == "pretrained"


@pytest.mark.parametrize("name", ["fcos_r50_fpn", "fasterrcnn_r18_fpn"])
def test_weights_that_nobody_gives_are_an_error_or_a_warning(name: str, offline: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        build(ModelSpec(name, weights="pretrained", image_size=64))
    assert "--weights FILE" in caught.value.hint
    assert "\n" not in str(caught.value)


def test_random_weights_are_warned_of(offline: Path) -> None:
    with process.collecting_warnings() as warnings:
        model = build(ModelSpec("ssdlite320_mobilenet_v3_large"))
    assert model.weights == "random"
    assert len(warnings) == 1
    assert "RANDOM weights" in warnings[0]


# --- backbones --------------------------------------------------------------------------------------


def test_random_heads_are_settled_without_what_follows_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec("maskrcnn_r50_fpn", weights="random", image_size=64)
    wanted = build(spec).module.state_dict()

    def forward(*_: Any) -> None:
        raise AssertionError("a mask was computed")

    monkeypatch.setattr(MaskRCNNPredictor, "forward", forward)
    settled = build(spec).module.state_dict()
    assert settled.keys() == wanted.keys()
    assert all(torch.equal(settled[key], value) for key, value in wanted.items())


def test_a_trained_backbone_stays_as_it_was_trained() -> None:
    """The weights of EfficientNet-Lite come with a package; what stands on it is random."""
    trained = build(ModelSpec("efficientnet_lite1", weights="pretrained")).module.state_dict()
    with process.collecting_warnings() as warnings:
        model = build(ModelSpec("unet_resnet34", backbone="efficientnet_lite1", image_size=64))
    assert any("above its backbone" in text for text in warnings)
    assert any("efficientnet_lite1" in note for note in model.notes)
    prefix = "backbone.body."
    own = {
        key.removeprefix(prefix): value
        for key, value in model.module.state_dict().items()
        if key.startswith(prefix)
    }
    shared = own.keys() & trained.keys()
    assert len(shared) > 200
    assert all(torch.equal(own[key], trained[key]) for key in shared)


def test_the_backbones_weights_are_at_hand_too(offline: Path) -> None:
    folder = offline / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet34-00000000.pth").touch()
    (folder / "resnet18-00000000.pth").touch()
    assert weights_at_hand("unet_resnet34") == ["resnet34-00000000.pth"]
    assert weights_at_hand("unet_resnet34", "resnet18") == ["resnet18-00000000.pth"]


@pytest.mark.parametrize(
    ("name", "backbone", "error", "said"),
    [
        ("fasterrcnn_r50_fpn", "vit_b_16", ModelError, "Choose a "),
        ("unet_resnet34", "vit_b_16", ModelError, "Choose a "),
        ("retinanet_r50_fpn", "ssd300_vgg16", UsageError, "detection model and no backbone"),
        ("semantic_fpn_resnet50", "unet_resnet34", UsageError, "segmentation model and no backbone"),
        ("ssd300_vgg16", "resnet18", UsageError, "--backbone belongs to"),
        ("fcn_resnet50", "resnet18", UsageError, "--backbone belongs to"),
        ("resnet50", "resnet18", UsageError, "--backbone belongs to"),
        ("fcos_r50_fpn", "resnet51", ModelError, "resnet50"),
    ],
)
def test_a_backbone_that_does_not_fit(name: str, backbone: str, error: Any, said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        build(ModelSpec(name, weights="random", backbone=backbone))
    assert "\n" not in str(caught.value)
    assert caught.value.hint
