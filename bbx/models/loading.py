"""Weights from a file into a module, with what the user should know of it."""

from __future__ import annotations

from torch import nn

from bbx.models import checkpoint
from bbx.models.weights import Choice

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.", "aux_classifier.")
"""Heads that help in training only; published checkpoints hold them."""


def load_pretrained(
    module: nn.Module, choice: Choice, head: checkpoint.Head | None = None, *, replace_head: bool = False
) -> tuple[str, ...]:
    """Load published weights; the position embedding of torchvision's ViT is interpolated to its image size.

    Args:
        head, replace_head: as for `load_file`.

    Raises:
        WeightsError: they do not fit.
    """
    assert choice.path is not None  # pretrained weights are a file by now
    own = module.state_dict()
    state, _ = checkpoint.read(choice.path, own)
    if choice.in_order:
        state = checkpoint.in_order(state, own, path=choice.path)
    resized = _resize_positions(module, state)
    notes: tuple[str, ...] = ()
    if head is not None and replace_head:
        state, notes = checkpoint.without_head(state, own, head, path=choice.path)
    checkpoint.fit(module, state, path=choice.path, unused=_AUXILIARY, new=head if notes else None)
    return (*notes, "position embedding interpolated to the image size") if resized else notes


def _resize_positions(module: nn.Module, state: checkpoint.State) -> bool:
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    key = "encoder.pos_embedding"
    if not isinstance(module, VisionTransformer) or state[key].shape == module.state_dict()[key].shape:
        return False
    state.update(interpolate_embeddings(module.image_size, module.patch_size, state))
    return True


def load_file(
    module: nn.Module,
    choice: Choice,
    head: checkpoint.Head | None,
    *,
    headless: bool = False,
    replace_head: bool = False,
) -> tuple[str, ...]:
    """Load the checkpoint that the user named.

    Args:
        head: the layer by whose size another class count is recognised.
        headless: the module has no such layer, and the checkpoint may have one.
        replace_head: where the checkpoint's head is another, leave the module's as it is.

    Raises:
        WeightsError: it is no checkpoint, or does not fit.
    """
    assert choice.path is not None  # it was named
    own = module.state_dict()
    state, notes = checkpoint.read(choice.path, own)
    replaced: tuple[str, ...] = ()
    if head is not None and replace_head:
        state, replaced = checkpoint.without_head(state, own, head, path=choice.path)
    unused = (*_AUXILIARY, f"{head.path}.") if headless and head else _AUXILIARY
    new = head if replaced else None
    fitted = checkpoint.fit(module, state, path=choice.path, head=head, unused=unused, new=new)
    return notes + replaced + fitted
