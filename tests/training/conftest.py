"""Data to learn from: scikit-learn's digits as folders, and networks that learn them in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bbx.train_api import train
from tests.training.digits import write_digits

QUICK = {"epochs": 3, "batch_size": 16, "workers": 0, "augment": "light"}


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of all ten digits, twelve images each, 16 pixels a side."""
    return write_digits(tmp_path_factory.mktemp("digits") / "digits", range(10), most=12)


@pytest.fixture
def quick(
    in_nets_folder: Path, inline_tasks: None, digits: Path, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Train `sample_nets:tiny` on digits in this process; gives the document."""

    def run(model: str = "sample_nets:tiny", **options: Any) -> dict[str, Any]:
        asked: dict[str, Any] = {**QUICK, "data": digits, "out": tmp_path / "run", **options}
        return train(model, **asked)

    return run


def curve(document: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Losses and metrics of every epoch, without the time."""
    return [(each["train_loss"], each["val_loss"], each["scores"]) for each in document["epochs"]]
