"""From a spec to a module that is ready to run: architecture, weights, head, preprocessing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from bbx.artifact import WeightsOrigin
from bbx.errors import ModelError, WeightsError
from bbx.models import checkpoint
from bbx.models.batch_norm import estimate_batch_norm
from bbx.models.construct import check_size, construct, seeded
from bbx.models.factory import call_factory
from bbx.models.heads import attach, classifier_path
from bbx.models.registry import resolve
from bbx.models.spec import IMAGENET_CLASSES, ModelSpec, Prefixed, Preset
from bbx.models.weights import Choice, choose
from bbx.types import Preprocess, TensorSpec

INPUT = "images"

# Classifiers that help in training only; published checkpoints hold them.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


@dataclass(frozen=True, slots=True)
class Model:
    """A module in eval mode and what is known of it.

    Attributes:
        module: takes one tensor as `inputs` says and gives one as `outputs` says; every submodule is in
            eval mode.
        spec: what was asked for.
        inputs: one, named `images`.
        outputs: one, named `logits`, or `features` for head `none`.
        preprocess: how an image becomes a row of the input.
        weights: where they came from.
        notes: what was done to the weights or left out, in words.
    """

    module: nn.Module
    spec: ModelSpec
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    weights: WeightsOrigin
    notes: tuple[str, ...]


class ByteInput(nn.Module):
    """A network that takes NHWC bytes: layout and normalisation, in float32, then the network.

    Args:
        network: takes float32 [batch, 3, height, width].
        mean: per RGB channel, for values in 0..1.
        std: likewise.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self, network: nn.Module, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> None:
        super().__init__()
        self.network = network
        channels = torch.tensor([mean, std], dtype=torch.float64).view(2, 3, 1, 1)
        self.register_buffer("scale", (1 / (255 * channels[1])).float(), persistent=False)
        self.register_buffer("shift", (-channels[0] / channels[1]).float(), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [batch, height, width, 3] to the network's output."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        output: torch.Tensor = self.network(pixels * self.scale + self.shift)
        return output


def build(spec: ModelSpec) -> Model:
    """Build a model: the same spec and the same checkpoint give the same numbers in every process.

    Raises:
        ModelError: unknown model, or one that cannot have these options.
        UsageError: options that do not go together.
        WeightsError: the weights cannot be had or do not fit.
        UnavailableError: a library is not installed.
    """
    target = resolve(spec.name)
    if isinstance(target, Prefixed) and target.is_factory:
        module, preprocess, origin, notes = _from_factory(target, spec)
    else:
        module, preprocess, origin, notes = _from_library(target, spec)
    module.eval()
    outputs = (_output(module, target, spec, preprocess),)
    if spec.input == "uint8":
        module = ByteInput(module, preprocess.mean, preprocess.std).eval()
        preprocess = replace(preprocess, dtype="uint8", layout="NHWC")
    inputs = (TensorSpec(INPUT, preprocess.dtype, preprocess.input_shape),)
    return Model(module, spec, inputs, outputs, preprocess, origin, notes)


_Parts = tuple[nn.Module, Preprocess, WeightsOrigin, tuple[str, ...]]


def _from_factory(target: Prefixed, spec: ModelSpec) -> _Parts:
    with seeded(spec.seed):
        module, preprocess = call_factory(target, spec)
    if spec.weights == "pretrained":
        raise WeightsError(
            f"bbx knows no pretrained weights for {spec.name}.", hint="Name a checkpoint: --weights FILE"
        )
    if not spec.weights_are_a_file:
        return module, preprocess, "random", (f"weights as the factory made them, from seed {spec.seed}",)
    choice = choose(spec, target)
    return module, preprocess, choice.origin, _load_file(module, choice, head=None)


def _from_library(target: Preset | Prefixed, spec: ModelSpec) -> _Parts:
    if isinstance(target, Preset):
        check_size(target, spec)
    choice = choose(spec, target)
    timm_loads = target.library == "timm" and choice.origin == "pretrained" and not choice.in_order
    with seeded(spec.seed):
        module, preprocess = construct(target, spec, choice.path if timm_loads else None)
    notes: tuple[str, ...] = ()
    if choice.origin == "pretrained" and not timm_loads:
        notes = _load_pretrained(module, choice)
    path = classifier_path(module)
    # A seed of its own, so that the head does not depend on what was drawn for the backbone.
    with seeded(spec.seed):
        replaced = attach(module, spec, path)
    if spec.weights_are_a_file:
        notes += _load_file(module, choice, head=path, headless=spec.head == "none")
    elif choice.origin == "random":
        notes += _settle(module, preprocess)
    elif replaced and spec.head != "none":
        notes += (f"the {spec.head} head is new: random, from seed {spec.seed}",)
    return module, preprocess, choice.origin, notes


def _settle(module: nn.Module, preprocess: Preprocess) -> tuple[str, ...]:
    """Give random weights batch-norm statistics under which they carry a signal."""
    try:
        found = estimate_batch_norm(module, preprocess)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError):
        return ()  # It does not take such images; `_output` finds that out next, and says so.
    return ("batch-norm statistics of the random weights: from photographs and noise",) if found else ()


def _load_pretrained(module: nn.Module, choice: Choice) -> tuple[str, ...]:
    assert choice.path is not None  # pretrained weights are a file by now
    own = module.state_dict()
    state, _ = checkpoint.read(choice.path, own)
    if choice.in_order:
        state = checkpoint.in_order(state, own, path=choice.path)
    resized = _resize_positions(module, state)
    checkpoint.fit(module, state, path=choice.path, unused=_AUXILIARY)
    return ("position embedding interpolated to the image size",) if resized else ()


def _resize_positions(module: nn.Module, state: checkpoint.State) -> bool:
    """Interpolate the position embedding of torchvision's ViT to the module's image size, in place."""
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    key = "encoder.pos_embedding"
    if not isinstance(module, VisionTransformer) or state[key].shape == module.state_dict()[key].shape:
        return False
    state.update(interpolate_embeddings(module.image_size, module.patch_size, state))
    return True


def _load_file(
    module: nn.Module, choice: Choice, *, head: str | None, headless: bool = False
) -> tuple[str, ...]:
    assert choice.path is not None  # it was named
    state, notes = checkpoint.read(choice.path, module.state_dict())
    unused = (*_AUXILIARY, f"{head}.") if headless else _AUXILIARY
    return notes + checkpoint.fit(module, state, path=choice.path, head=head, unused=unused)


def _output(
    module: nn.Module, target: Preset | Prefixed, spec: ModelSpec, preprocess: Preprocess
) -> TensorSpec:
    """The output's spec: from the preset's table, or from one forward pass of a model that has none."""
    name = "features" if spec.head == "none" else "logits"
    if isinstance(target, Preset):
        width = target.pooled_channels if spec.head == "none" else spec.num_classes or IMAGENET_CLASSES
        return TensorSpec(name, "float32", (None, width))
    size = f"{preprocess.height}x{preprocess.width}"
    try:
        with torch.inference_mode():
            given = module(torch.zeros(1, 3, preprocess.height, preprocess.width))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{spec.name} cannot run on a {size} image: {reason}", hint="Try another --image-size."
        ) from error
    if not isinstance(given, torch.Tensor) or given.ndim == 0:
        raise ModelError(
            f"{spec.name} gives {type(given).__name__}; bbx needs one tensor with the batch first."
        )
    return TensorSpec(name, str(given.dtype).removeprefix("torch."), (None, *given.shape[1:]))
