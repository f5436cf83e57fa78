"""Which parts of a network are its backbone, in which order, and which of them learn.

A *block* is a part of the backbone that is trained or frozen as one: an entry of its containers
(`layer4.1`, `features.7`), or a layer that stands alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bbx.errors import ModelError, UsageError, did_you_mean
from bbx.training.options import TrainOptions

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_MOST = 0.5
"""A part with more than this share of the parameters is looked into, whatever its kind."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the backbone.

    Attributes:
        name: its path in the network.
        part: a module, or a parameter that stands alone, such as an embedding of positions.
    """

    name: str
    part: nn.Module | nn.Parameter

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that could learn."""
        return [self.part] if isinstance(self.part, nn.Parameter) else list(self.part.parameters())


def backbone_of(network: nn.Module, head: str | None) -> list[Block]:
    """The blocks of a network below its head, in the order of its layers.

    Of a detector and a segmenter the backbone is what stands under that name, without a pyramid; of a
    classifier all but the head.

    Args:
        head: of a classifier, the path of what makes the logits.
    """
    part: Any = getattr(network, "backbone", None)
    if head is None and isinstance(part, nn.Module):
        body = getattr(part, "body", None)
        path, root = ("backbone.body", body) if isinstance(body, nn.Module) else ("backbone", part)
        return list(_blocks(root, path, head, _count(root)))
    return list(_blocks(network, "", head, _count(network)))


def _blocks(module: nn.Module, path: str, head: str | None, whole: int) -> Iterator[Block]:
    for name, parameter in module.named_parameters(prefix=path, recurse=False):
        yield Block(name, parameter)
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        if below == head or _count(child) == 0:
            continue
        has_head = head is not None and head.startswith(f"{below}.")
        large = _count(child) > _MOST * whole and any(True for _ in child.children())
        if type(child) in _CONTAINERS or large or has_head:
            yield from _blocks(child, below, head, whole)
        else:
            yield Block(below, child)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def frozen_blocks(blocks: list[Block], options: TrainOptions) -> list[Block]:
    """The blocks that do not learn.

    Raises:
        UsageError: more blocks are to learn than there are.
        ModelError: there is no block of the name that was given; names the nearest.
    """
    if options.freeze_until is not None:
        return blocks[: _last_below(blocks, options.freeze_until) + 1]
    if options.unfreeze is not None:
        if options.unfreeze > len(blocks):
            raise UsageError(
                f"{options.spec.name} has {len(blocks)} blocks below its head, and --unfreeze "
                f"{options.unfreeze} was asked.",
                hint="Leave it out to train all of them.",
            )
        return blocks[: len(blocks) - options.unfreeze]
    return blocks if options.freeze_backbone else []


def _last_below(blocks: list[Block], name: str) -> int:
    found = [at for at, block in enumerate(blocks) if block.name == name or block.name.startswith(f"{name}.")]
    if not found:
        known = {block.name for block in blocks} | {block.name.rpartition(".")[0] for block in blocks}
        hint = did_you_mean(name, known - {""}) or f"They run from {blocks[0].name} to {blocks[-1].name}."
        raise ModelError(f"The backbone has no block {name!r}.", hint=hint)
    return found[-1]


def freeze(blocks: Iterable[Block]) -> list[nn.Module]:
    """Let the blocks learn nothing; gives the modules that must stay in evaluation mode for that.

    A batch norm would go on moving its statistics in training mode, without any gradient.
    """
    still: list[nn.Module] = []
    for block in blocks:
        block.part.requires_grad_(False)
        if isinstance(block.part, nn.Module):
            still.append(block.part)
    return still


def norms_of(blocks: Iterable[Block]) -> list[nn.Module]:
    """The batch norms of the blocks."""
    modules = [block.part for block in blocks if isinstance(block.part, nn.Module)]
    return [part for module in modules for part in module.modules() if isinstance(part, _BatchNorm)]
