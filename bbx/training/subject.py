"""What is trained, before its first step: the network, what of it learns, and what it is told to give."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from bbx.errors import ModelError
from bbx.models.build import Model, build
from bbx.models.registry import resolve
from bbx.models.spec import Prefixed, Preset
from bbx.training.auxiliaries import add_auxiliaries
from bbx.training.layers import Block, backbone_of, freeze, frozen_blocks, norms_of
from bbx.training.objective import Classify, Objective, objective_for
from bbx.training.options import TrainOptions
from bbx.types import Postprocess


@dataclass(frozen=True, slots=True)
class Subject:
    """What is trained.

    Attributes:
        postprocess: what the outputs of its deployed form mean.
        blocks: of the backbone.
        still: modules that stay in evaluation mode: frozen ones, and batch norms that keep their statistics.
        notes: what was done to the weights, and what is frozen, in words.
    """

    model: Model
    postprocess: Postprocess
    objective: Objective
    blocks: list[Block]
    still: list[nn.Module]
    notes: tuple[str, ...]


def subject_of(options: TrainOptions, classes: int, keypoints: int = 0) -> Subject:
    """Build what is trained for so many classes, and freeze what is not to learn.

    Args:
        classes: of detection and segmentation with the background.
        keypoints: of an object; 0 where the data has none.

    Raises:
        ModelError: the model cannot tell so many classes apart, or has no block of a name that was given.
        WeightsError: the weights cannot be had, or do not fit below the head.
        UsageError: more is to be unfrozen than there is.
    """
    model = _built(options, classes, keypoints)
    objective = objective_for(model, options, classes)
    blocks = backbone_of(objective.network, model.head)
    frozen = frozen_blocks(blocks, options)
    still, notes = freeze(frozen), model.notes
    if frozen:
        notes += (f"frozen: {len(frozen)} of {len(blocks)} blocks, up to {frozen[-1].name}",)
    if options.task == "detection" and model.weights != "random":
        # A few large images are too few to estimate statistics by, as torchvision's own recipes have it.
        still += norms_of(blocks)
        notes += ("batch norms of the backbone keep their statistics",)
    if isinstance(objective, Classify) and len(frozen) < len(blocks):
        objective.auxiliary_weight = add_auxiliaries(objective.network, classes, options.seed)
        if objective.auxiliary_weight:
            notes += ("auxiliary classifiers help while it is trained",)
    means = model.postprocess or Postprocess(options.task, classes)
    return Subject(model, means, objective, blocks, still, notes)


def _built(options: TrainOptions, classes: int, keypoints: int) -> Model:
    target = resolve(options.spec.name)
    if not (isinstance(target, Prefixed) and target.is_factory):
        spec = replace(options.spec, num_classes=classes)
        if keypoints and isinstance(target, Preset) and target.num_keypoints is not None:
            spec = replace(spec, num_keypoints=keypoints)
        return build(spec, to_learn=True)
    model = build(options.spec, to_learn=True)
    width = model.outputs[0].shape[-1]
    if width != classes:
        raise ModelError(
            f"{options.spec.name} tells {width} classes apart, and the data has {classes}.",
            hint="The head of a factory is its own: let it make another.",
        )
    return model
