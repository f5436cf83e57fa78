"""Everything that moves while a network is trained, and can be saved and put back."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from bbx import lazy
from bbx.training.layers import Block
from bbx.training.objective import Objective
from bbx.training.optimise import groups_of, optimiser_over, schedule_over
from bbx.training.options import TrainOptions

_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(slots=True)
class Mean:
    """The mean of numbers that come one by one."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """One more."""
        self.total += value
        self.count += 1

    @property
    def mean(self) -> float:
        """So far; 0 where there was none."""
        return self.total / max(1, self.count)

    def take(self) -> float:
        """The mean so far; begins anew."""
        mean = self.mean
        self.total, self.count = 0.0, 0
        return mean


@dataclass(slots=True)
class Progress:
    """How far a run is, as plain values.

    Attributes:
        step: optimiser steps done.
        epochs: what is known of each epoch that is complete.
        best: number of the best of them, from 1; 0 before there is one.
        group, epoch: losses of the steps since the last line of the log, and of this epoch.
        broken: pictures that could not be read, and why.
        seconds: of work, of all processes that the run was resumed in.
        stopped: why no further step will be done; empty while there are some.
    """

    step: int = 0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best: int = 0
    group: Mean = field(default_factory=Mean)
    epoch: Mean = field(default_factory=Mean)
    broken: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    stopped: str = ""

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Progress:
        """What `dataclasses.asdict` made of one."""
        means = {name: Mean(**values[name]) for name in ("group", "epoch")}
        return cls(**{**values, **means})


class Course:
    """A network on its way, with its optimiser, its schedule, its average and how far it is.

    Args:
        blocks: of the backbone.
        still: modules that stay in evaluation mode: frozen ones, and batch norms that keep their statistics.
        epoch_steps: steps in an epoch.
    """

    def __init__(
        self,
        objective: Objective,
        blocks: list[Block],
        still: list[nn.Module],
        options: TrainOptions,
        *,
        device: torch.device,
        epoch_steps: int,
    ) -> None:
        self.objective = objective.to(device)
        self.objective.deployed.to(device)
        self.options, self.device, self.epoch_steps = options, device, epoch_steps
        self._still = still
        self.optimiser = optimiser_over(groups_of(objective.network, blocks, options), options)
        self.schedule = schedule_over(self.optimiser, options, epoch_steps)
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")
        self.average: Any = None
        if options.ema is not None:
            self.average = lazy.require("timm.utils").ModelEmaV3(objective, options.ema, use_warmup=True)
        self.progress = Progress()

    def learn(self) -> None:
        """Be in training mode, but for what is to stay still."""
        self.objective.train()
        for module in self._still:
            module.eval()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which the network computes."""
        half = _HALVES.get(self.options.amp or "")
        return torch.autocast(self.device.type, half, enabled=half is not None)

    @property
    def judged(self) -> Objective:
        """What is judged and kept: the average where there is one."""
        return self.objective if self.average is None else self.average.module

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` puts back: tensors and plain values."""
        return {
            "progress": asdict(self.progress),
            "network": self.objective.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state_dict` was taken; the schedule has no state, but the step."""
        self.progress = Progress.from_plain(state["progress"])
        self.objective.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
