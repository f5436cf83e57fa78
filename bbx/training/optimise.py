"""Groups of parameters with their own rates, the optimiser over them, and the schedule of its rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bbx import lazy
from bbx.errors import UsageError, did_you_mean
from bbx.training.layers import Block
from bbx.training.options import Schedule, TrainOptions

_FIRST_RATE = 0.01
"""Share of the rate at which the warm-up begins."""

_STEPS = 3
"""Levels of the schedule `step`, each a tenth of the one before."""

_TIMM: dict[Schedule, str] = {"cosine": "cosine", "linear": "poly", "step": "step", "constant": "constant"}


def groups_of(network: nn.Module, blocks: list[Block], options: TrainOptions) -> list[dict[str, Any]]:
    """The parameters that learn, in groups of one rate and one weight decay.

    Each group has its factor of the rate as `lr_scale`, by which timm's schedules multiply. Biases are not
    decayed, nor scales and shifts of norms.

    Raises:
        UsageError: nothing is left to learn.
    """
    scales = _scales(blocks, options)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        scale, decayed = scales.get(id(parameter), 1.0), parameter.ndim > 1
        decay = options.decay if decayed else 0.0
        fresh = {"params": [], "lr": options.rate, "lr_scale": scale, "weight_decay": decay}
        groups.setdefault((scale, decayed), fresh)["params"].append(parameter)
    if not groups:
        raise UsageError("Nothing is left to learn: all of the network is frozen.", hint="Freeze less.")
    return list(groups.values())


def _scales(blocks: list[Block], options: TrainOptions) -> dict[int, float]:
    """The factor of the rate of every parameter of the backbone, by its identity."""
    depths = {
        id(parameter): depth
        for depth, block in enumerate(reversed(blocks), start=1)
        for parameter in block.parameters
    }
    if options.layer_decay is None:
        return dict.fromkeys(depths, options.backbone_lr_scale)
    return {identity: options.layer_decay**depth for identity, depth in depths.items()}


def optimiser_over(groups: list[dict[str, Any]], options: TrainOptions) -> torch.optim.Optimizer:
    """The optimiser that was asked for, by timm's name.

    Raises:
        UsageError: timm knows no such optimiser, or it cannot be made; names the nearest.
    """
    optim = lazy.require("timm.optim")
    known = optim.list_optimizers()
    name = options.optimizer.lower()
    if name not in known:
        raise UsageError(f"There is no optimizer {options.optimizer!r}.", hint=did_you_mean(name, known))
    try:
        made: torch.optim.Optimizer = optim.create_optimizer_v2(groups, opt=name, lr=options.rate)
    except (TypeError, ValueError, ImportError, AssertionError) as error:
        raise UsageError(
            f"--optimizer {name} cannot be used: {error}", hint="Type: --optimizer adamw"
        ) from error
    return made


def schedule_over(optimiser: torch.optim.Optimizer, options: TrainOptions, epoch_steps: int) -> Any:
    """timm's schedule over all steps; `step_update(n)` sets the rates of the step after n others.

    Args:
        epoch_steps: steps in an epoch.
    """
    warmup = round(options.warmup_epochs * epoch_steps)
    after = max(1, options.epochs * epoch_steps - warmup)
    made, _ = lazy.require("timm.scheduler").create_scheduler_v2(
        optimiser,
        sched=_TIMM[options.schedule],
        num_epochs=after,
        decay_epochs=max(1, -(-after // _STEPS)),
        decay_rate=1.0 if options.schedule == "linear" else 0.1,
        warmup_epochs=warmup,
        warmup_lr=options.rate * _FIRST_RATE,
        warmup_prefix=True,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return made
