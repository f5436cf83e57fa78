"""Classifiers: a preset, any model of torchvision or timm, or a factory of the user's own."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import nn

from bbx.errors import ModelError, WeightsError
from bbx.models.batch_norm import estimate_batch_norm, lift_batch_norm
from bbx.models.checkpoint import Head
from bbx.models.construct import check_size, construct, device_of, is_outline, seeded
from bbx.models.factory import call_factory
from bbx.models.heads import attach, classifier_path
from bbx.models.loading import load_file, load_pretrained
from bbx.models.parts import Parts
from bbx.models.residuals import damp_residuals
from bbx.models.spec import ModelSpec, Prefixed, Preset
from bbx.models.weights import choose
from bbx.types import Postprocess, Preprocess, TensorSpec

_REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError, IndexError)
"""What a network raises for an image that it cannot take."""


def from_factory(target: Prefixed, spec: ModelSpec) -> Parts:
    """What `package.module:factory` makes.

    Raises:
        ModelError: the factory or what it gives is at fault.
        UsageError: an option that only the factory can decide.
        WeightsError: the checkpoint cannot be had or does not fit.
    """
    with seeded(spec.seed):
        module, preprocess = call_factory(target, spec)
    if spec.weights == "pretrained":
        raise WeightsError(
            f"bbx knows no pretrained weights for {spec.name}.", hint="Name a checkpoint: --weights FILE"
        )
    module.eval()
    outputs, path = (_found_output(module, spec, preprocess),), classifier_path(module)
    if not spec.weights_are_a_file:
        notes = (f"weights as the factory made them, from seed {spec.seed}",)
        return Parts(module, preprocess, outputs, None, "random", notes, head=path)
    choice = choose(spec, target)
    loaded = load_file(module, choice, None)
    return Parts(module, preprocess, outputs, None, choice.origin, loaded, head=path)


def from_library(target: Preset | Prefixed, spec: ModelSpec, *, to_learn: bool = False) -> Parts:
    """A classifier of torchvision or timm under the head that was asked for, in eval mode.

    Args:
        to_learn: see `bbx.models.build.build`.

    Raises:
        ModelError: it cannot have these options.
        WeightsError: the weights cannot be had or do not fit.
        UnavailableError: its library is not installed.
    """
    if isinstance(target, Preset):
        check_size(target, spec)
    choice = choose(spec, target)
    timm_loads = target.library == "timm" and choice.origin == "pretrained" and not choice.in_order
    with seeded(spec.seed):
        module, preprocess = construct(target, spec, choice.path if timm_loads else None)
    notes: tuple[str, ...] = ()
    if choice.origin == "pretrained" and not timm_loads:
        notes = load_pretrained(module, choice)
    path = classifier_path(module)
    # A seed of its own, so that the head does not depend on what was drawn for the backbone.
    with seeded(spec.seed):
        replaced = attach(module, spec, path)
    if spec.weights_are_a_file:
        head = Head(path) if path else None
        notes += load_file(module, choice, head, headless=spec.head == "none", replace_head=to_learn)
    elif choice.origin == "random":
        notes += () if to_learn else settle(module, preprocess)
    elif replaced and spec.head != "none":
        notes += (f"the {spec.head} head is new: random, from seed {spec.seed}",)
    module.eval()
    output = _output(module, target, spec, preprocess)
    means = Postprocess("classification", output.shape[-1] if spec.head != "none" else None)
    return Parts(module, preprocess, (output,), means, choice.origin, notes, head=path)


_SETTLING_SIDE = 224
"""Pixels a side of the images that random weights are settled on, where the network takes so small ones.

Larger ones take as many times as long as they have more pixels.
"""


def settle(
    module: nn.Module, preprocess: Preprocess, *, but: Collection[nn.Module] = (), any_size: bool = True
) -> tuple[str, ...]:
    """Give random weights batch norms that carry a signal and do not magnify it; says so in words.

    Args:
        but: parts that are left alone: trained ones, or settled before.
        any_size: whether the network may take other images than those of `preprocess`.
    """
    if is_outline(module):
        return ()
    damped = damp_residuals(module, but=but)
    lifted = 0 if damped or but else lift_batch_norm(module)
    found = _estimated(module, preprocess, but, any_size=any_size)
    if found is None:
        return ()  # It takes no such images; `_found_output` finds that out next, and says so.
    notes: tuple[str, ...] = ()
    if found:
        notes += ("batch-norm statistics of the random weights: from photographs and noise",)
    if lifted:
        notes += (f"{lifted} batch norms of the random weights: lifted",)
    if damped:
        notes += (f"{damped} residual branches of the random weights: damped",)
    return notes


def _estimated(
    module: nn.Module, preprocess: Preprocess, but: Collection[nn.Module], *, any_size: bool
) -> bool | None:
    """See `estimate_batch_norm`; on small images if it takes them. None where it takes none at all."""
    height, width = min(preprocess.height, _SETTLING_SIDE), min(preprocess.width, _SETTLING_SIDE)
    small = (replace(preprocess, height=height, width=width),) if any_size else ()
    for how in dict.fromkeys((*small, preprocess)):
        with contextlib.suppress(*_REFUSALS):
            return estimate_batch_norm(module, how, but=but)
    return None


def _output(
    module: nn.Module, target: Preset | Prefixed, spec: ModelSpec, preprocess: Preprocess
) -> TensorSpec:
    """The output's spec: from the preset's table, or from one forward pass of a model that has none."""
    if not isinstance(target, Preset):
        return _found_output(module, spec, preprocess)
    width = target.pooled_channels if spec.head == "none" else spec.num_classes or target.num_classes
    return TensorSpec(_name_of_output(spec), "float32", (None, width))


def _name_of_output(spec: ModelSpec) -> str:
    return "features" if spec.head == "none" else "logits"


def _found_output(module: nn.Module, spec: ModelSpec, preprocess: Preprocess) -> TensorSpec:
    size = f"{preprocess.height}x{preprocess.width}"
    try:
        with torch.inference_mode():
            given = module(torch.zeros(1, 3, preprocess.height, preprocess.width, device=device_of(module)))
    except _REFUSALS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{spec.name} cannot run on a {size} image: {reason}", hint="Try another --image-size."
        ) from error
    if not isinstance(given, torch.Tensor) or given.ndim == 0:
        raise ModelError(
            f"{spec.name} gives {type(given).__name__}; bbx needs one tensor with the batch first."
        )
    dtype = str(given.dtype).removeprefix("torch.")
    return TensorSpec(_name_of_output(spec), dtype, (None, *given.shape[1:]))
