"""How good a network is on the images that epochs are judged by: the metrics of `bbx eval`, and the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bbx.datasets import Dataset
from bbx.errors import BbxError
from bbx.evaluation.metrics import tally_of
from bbx.outputs import restore
from bbx.training.objective import Objective
from bbx.training.ranks import gathered
from bbx.training.samples import Batch
from bbx.types import Postprocess, Preprocess


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an epoch is worth.

    Attributes:
        loss: the mean over the images; None for a detector, which has one in training mode only.
        scores: every metric by name.
        metric: name of the one that stands for the task.
        broken: pictures that could not be read, and why.
    """

    loss: float | None
    scores: dict[str, float]
    metric: str
    broken: dict[str, str]

    @property
    def value(self) -> float:
        """Of the metric that stands for the task."""
        return self.scores[self.metric]


def judge(
    objective: Objective,
    batches: Iterable[Batch],
    data: Dataset,
    preprocess: Preprocess,
    postprocess: Postprocess,
    *,
    device: torch.device,
    autocast: Any,
) -> Judgement:
    """Judge a network; with several processes each has its share of the images, and all get the same answer.

    Args:
        batches: this process's share of `data`, preprocessed as for evaluation.
        autocast: makes the context in which the network computes.

    Raises:
        BbxError: there is something wrong with a target, or nothing to judge by.
    """
    tally = tally_of(data.task, len(data.classes))
    looks: list[tuple[int, Any]] = []
    total, broken = 0.0, dict[str, str]()
    objective.deployed.eval()
    for batch in batches:
        if batch.refusal is not None:
            raise BbxError(batch.refusal[0], hint=batch.refusal[1])
        broken |= batch.broken
        if not batch.indices:
            continue
        here = batch.to(device)
        with torch.inference_mode(), autocast():
            answers = objective.answers(here.images)
            loss = objective.judged_loss(answers, here.targets)
        total += math.nan if loss is None else float(loss) * len(batch.indices)
        results = restore(_arrays(answers), preprocess, postprocess, batch.sizes)
        looks += [
            (index, tally.look(result, data.target(index)))
            for index, result in zip(batch.indices, results, strict=True)
        ]
    parts = gathered((looks, total, broken))
    for _, look in sorted((pair for part, _, _ in parts for pair in part), key=lambda pair: pair[0]):
        tally.add(look)
    broken = {name: why for _, _, part in parts for name, why in part.items()}
    scores = tally.result() if len(tally) else {}
    if tally.primary not in scores:
        raise BbxError("There is nothing to judge by: no image of the held-out data has anything on it.")
    summed = sum(part for _, part, _ in parts)
    has_loss = data.task != "detection"
    return Judgement(summed / len(tally) if has_loss else None, scores, tally.primary, broken)


def _arrays(answers: dict[str, torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {
        name: (value.float() if value.is_floating_point() else value).cpu().numpy()
        for name, value in answers.items()
    }
