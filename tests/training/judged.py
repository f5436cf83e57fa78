"""What a checkpoint is worth, by other code than said it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bbx.images import apply
from bbx.models.build import build
from bbx.models.spec import ModelSpec
from bbx.training.data import open_data
from bbx.training.options import TrainOptions


def accuracy(model: str, checkpoint: str, data: Path) -> float:
    """Share of the held-out images of a run with default options that a classifier names rightly."""
    spec = ModelSpec(model, weights=checkpoint)
    built = build(spec)
    val = open_data(TrainOptions(spec, str(data))).val
    rows = np.stack([apply(val.image(index), built.preprocess) for index in range(len(val))])
    with torch.inference_mode():
        answers = built.module(torch.from_numpy(rows)).argmax(1)
    return sum(int(answers[index]) == val.target(index) for index in range(len(val))) / len(val)
