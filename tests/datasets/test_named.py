"""torchvision's datasets, from files in their own format."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from bbx.datasets import open_dataset, splits_of
from bbx.errors import BbxError, UsageError


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """scikit-learn's digits where torchvision looks for MNIST's, in the format of that."""
    digits = load_digits()
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, rows in (("train", slice(0, 40)), ("t10k", slice(40, 60))):
        images = (digits.images[rows] * 15).astype(np.uint8)
        header = struct.pack(">IIII", 0x803, *images.shape)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = digits.target[rows].astype(np.uint8)
        header = struct.pack(">II", 0x801, len(labels))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    monkeypatch.setenv("BBX_DATASETS", str(tmp_path))
    return tmp_path


def test_a_dataset_by_its_name_whatever_its_case(mnist: Path) -> None:
    assert splits_of("torchvision:mnist", "classification") == ("train", "test")
    data = open_dataset("torchvision:mnist", "classification", split="test")
    assert len(data) == 20
    assert data.classes[:2] == ("0 - zero", "1 - one")
    assert [data.target(index) for index in range(20)] == load_digits().target[40:60].tolist()
    assert (data.image(3).mode, data.image(3).size) == ("RGB", (8, 8))
    assert data.name(3) == "MNIST/test[3]"


def test_of_labels_with_more_in_them_the_first_is_the_class(mnist: Path) -> None:
    data: Any = open_dataset("torchvision:mnist", "classification", split="test")
    kept = data._data.targets
    data._data.targets = torch.stack([kept, kept + 100], dim=1)  # as QMNIST's
    assert [data.target(index) for index in range(20)] == load_digits().target[40:60].tolist()


def test_a_part_that_it_does_not_have(mnist: Path) -> None:
    with pytest.raises(UsageError, match=r"has no part 'val'\. It has: train, test"):
        open_dataset("torchvision:MNIST", "classification", split="val")


def test_names_that_are_none() -> None:
    with pytest.raises(UsageError, match=r"There is no dataset 'torchvision:cifa10'\. Nearest: CIFAR10"):
        open_dataset("torchvision:cifa10", "classification", split="test")
    with pytest.raises(UsageError, match=r"is for classification\. For detection, name a COCO"):
        open_dataset("torchvision:CIFAR10", "detection", split="test")


def test_what_cannot_be_fetched_says_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no network here")

    monkeypatch.setattr(datasets, "CIFAR10", refuse)
    monkeypatch.setenv("BBX_DATASETS", str(tmp_path))
    with pytest.raises(BbxError, match=f"is not in {tmp_path} and cannot be fetched: no network here"):
        open_dataset("torchvision:CIFAR10", "classification", split="test")
