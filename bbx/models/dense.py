"""Detectors and segmenters: torchvision's network, its weights, and the form of it that is deployed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection.ssd import SSD

from bbx import process
from bbx.artifact import WeightsOrigin
from bbx.errors import ModelError
from bbx.models.checkpoint import Head
from bbx.models.classifier import settle
from bbx.models.construct import check_size, is_outline, seeded, sized
from bbx.models.detection import construct as detection
from bbx.models.detection.options import DetectionOptions
from bbx.models.detection.reference import TorchvisionDetector
from bbx.models.detection.settle import settle_scores
from bbx.models.features import FeatureMaps
from bbx.models.loading import load_file, load_pretrained
from bbx.models.necks import neck_backbone
from bbx.models.parts import Parts
from bbx.models.registry import resolve
from bbx.models.segmentation import build as segmentation
from bbx.models.segmentation.base import BYTE_LABELS
from bbx.models.segmentation.reference import TorchvisionLogits
from bbx.models.spec import ModelSpec, Prefixed, Preset
from bbx.models.weights import Choice, choose
from bbx.types import Postprocess, Preprocess, TensorSpec

_WITHOUT_EPSILON = (
    "fasterrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
)
"""torchvision's first COCO weights were trained with an epsilon of zero in the frozen batch norms."""


_DECODERS = tuple(f"bbx:{name}" for name in segmentation.DECODERS)
"""Sources of the segmenters that always stand on a backbone built as a model of its own."""

_SETTLING_SIDE = 320
"""Pixels a side of the images on which a detector's random weights are settled, where they may be smaller."""


def detector(preset: Preset, spec: ModelSpec, *, to_learn: bool = False) -> Parts:
    """A detector in its deployable form, with torchvision's own as its reference.

    Args:
        to_learn: see `bbx.models.build.build`.

    Raises:
        ModelError: it cannot have these options, or the backbone has not the maps that it needs.
        WeightsError: the weights cannot be had or do not fit.
    """
    check_size(preset, spec)
    choice = _choice(preset, spec)
    preprocess = sized(preset.preprocess, spec)
    with seeded(spec.seed):
        neck = _neck(preset, spec)
        network = detection.build_network(preset, spec, neck).eval()
    notes = _load(network, choice, detection.head_of(network), to_learn=to_learn)
    # A state dict has no epsilon: what is trained further is trained, and loaded again, with the usual one.
    if choice.origin == "pretrained" and preset.architecture in _WITHOUT_EPSILON and not to_learn:
        _drop_epsilon(network)
    how = detection.options_of(preset, spec)
    module = detection.deployable(network, how, (preprocess.height, preprocess.width)).eval()
    if choice.origin == "random":
        notes += () if to_learn else _settle(network, how, preprocess)
        notes += _backbone_note(preset, spec)
    means = Postprocess(
        "detection",
        num_classes=spec.num_classes or preset.num_classes,
        score_threshold=how.score_threshold,
        iou_threshold=how.iou_threshold,
        candidates=how.candidates,
        detections=how.detections,
        lowering=how.lowering,
    )
    keypoints = spec.num_keypoints or preset.num_keypoints or 0
    outputs = detection.output_specs(module.outputs, how, keypoints)
    reference = TorchvisionDetector(network, how, module.outputs).eval()
    return Parts(module, preprocess, outputs, means, choice.origin, notes, reference)


def _settle(network: nn.Module, how: DetectionOptions, preprocess: Preprocess) -> tuple[str, ...]:
    """Make random weights find something; on small images where the network takes them, which is as good."""
    if is_outline(network):
        return ()
    if not isinstance(network, SSD) and min(preprocess.height, preprocess.width) > _SETTLING_SIDE:
        preprocess = replace(preprocess, height=_SETTLING_SIDE, width=_SETTLING_SIDE)
    # This lowering calls torchvision's operators, which take a fraction of the time on a CPU.
    module = detection.deployable(
        network, replace(how, lowering="onnx"), (preprocess.height, preprocess.width)
    ).eval()
    inside = set(module.backbone.modules())
    outside = (part for part in module.modules() if part not in inside)
    # What comes after the last batch norm need not run, and most detectors have all of them in the backbone.
    part = module if any(isinstance(each, _BatchNorm) for each in outside) else module.backbone
    notes = settle(part, preprocess, but=_settled(module), any_size=False)
    return notes + settle_scores(network, module, how, preprocess)


def _settled(module: nn.Module) -> list[nn.Module]:
    """Backbones that were built as models of their own: trained, or settled then."""
    return [part for part in module.modules() if isinstance(part, FeatureMaps)]


def segmenter(preset: Preset, spec: ModelSpec, *, to_learn: bool = False) -> Parts:
    """A segmenter that gives logits of the image's size or labels, with torchvision's own as its reference.

    Args:
        to_learn: see `bbx.models.build.build`.

    Raises:
        ModelError: it cannot have these options, or the backbone has not the maps that it needs.
        WeightsError: the weights cannot be had or do not fit.
    """
    check_size(preset, spec)
    choice = _choice(preset, spec)
    preprocess = sized(preset.preprocess, spec)
    classes = spec.num_classes or preset.num_classes
    size = (preprocess.height, preprocess.width)
    with seeded(spec.seed):
        module = segmentation.segmenter(
            preset.architecture,
            backbone=_backbone_spec(preset, spec) if preset.backbone else None,
            num_classes=classes,
            size=size,
            argmax=spec.argmax,
        )
    head = Head(module.class_layer, parts=(module.class_layer.partition(".")[0],))
    notes = _load(module, choice, head, to_learn=to_learn)
    if choice.origin == "random":
        notes += () if to_learn else settle(module, preprocess, but=_settled(module))
        notes += _backbone_note(preset, spec)
    shape = (None, *size) if spec.argmax else (None, classes, *size)
    dtype = ("uint8" if classes <= BYTE_LABELS else "int32") if spec.argmax else "float32"
    output = TensorSpec(module.outputs[0], dtype, shape)
    theirs = segmentation.reference(module)
    reference = None if theirs is None else TorchvisionLogits(theirs, argmax=spec.argmax).eval()
    return Parts(
        module, preprocess, (output,), Postprocess("segmentation", classes), choice.origin, notes, reference
    )


def _choice(preset: Preset, spec: ModelSpec) -> Choice:
    """The weights of the whole network; nobody publishes any for one on a backbone of the user's choice."""
    on_a_backbone = spec.backbone is not None or preset.source in _DECODERS
    if not on_a_backbone or spec.weights not in ("auto", "pretrained"):
        return choose(spec, preset)
    # The policy is for the backbone, which heeds it itself.
    process.warn(
        f"{spec.name} has RANDOM weights above its backbone (seed {spec.seed}): nobody publishes any. Its "
        "outputs mean nothing; shapes and speed are real. Name a checkpoint: --weights FILE"
    )
    return Choice("random")


def _backbone_spec(preset: Preset, spec: ModelSpec) -> ModelSpec:
    """The backbone as a model of its own; a checkpoint of the whole network brings its weights too."""
    name = spec.backbone or preset.backbone
    assert name is not None  # who asks has one
    target = resolve(name)
    weights = "random" if spec.weights_are_a_file else spec.weights
    # Models of timm that are made for one size must be made for this one.
    size = spec.size or (preset.preprocess.height, preset.preprocess.width)
    return ModelSpec(
        name, weights=weights, seed=spec.seed, image_size=size if isinstance(target, Prefixed) else None
    )


def _neck(preset: Preset, spec: ModelSpec) -> nn.Module | None:
    if spec.backbone is None:
        return None
    strides, extra = detection.pyramid_of(preset)
    neck = neck_backbone(_backbone_spec(preset, spec), extra=extra, strides=strides)
    found = tuple(level.stride for level in neck.levels)
    if found != strides:
        raise ModelError(
            f"{preset.name} needs feature maps at the strides {_listed(strides)}, and {spec.backbone} has "
            f"{_listed(found)} of them.",
            hint="Choose a backbone with stages, such as resnet50, convnext_tiny or swin_t.",
        )
    return neck


def _listed(strides: tuple[int, ...]) -> str:
    return ", ".join(map(str, strides))


def _backbone_note(preset: Preset, spec: ModelSpec) -> tuple[str, ...]:
    backbone = spec.backbone or (preset.backbone if preset.source in _DECODERS else None)
    if backbone is None:
        return ()
    return (f"what stands on {backbone} is random, from seed {spec.seed}",)


def _load(network: nn.Module, choice: Choice, head: Head, *, to_learn: bool) -> tuple[str, ...]:
    origin: WeightsOrigin = choice.origin
    if origin == "random":
        return ()
    load = load_pretrained if origin == "pretrained" else load_file
    return load(network, choice, head, replace_head=to_learn)


def _drop_epsilon(network: nn.Module) -> None:
    backbone: Any = network.backbone
    for part in backbone.body.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 0.0
