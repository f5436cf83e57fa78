"""torchvision's classification datasets by name: `torchvision:CIFAR10`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bbx import lazy
from bbx.datasets.base import Dataset
from bbx.datasets.numbering import numbered
from bbx.errors import BbxError, UsageError, did_you_mean
from bbx.images import upright_rgb

PREFIX = "torchvision:"


@dataclass(frozen=True, slots=True)
class _Parts:
    """How a dataset calls its parts: keyword arguments of its constructor, by `train`, `val` and `test`."""

    by_split: dict[str, dict[str, Any]]


_TRAIN = _Parts({"train": {"train": True}, "test": {"train": False}})
_SPLIT = _Parts({"train": {"split": "train"}, "test": {"split": "test"}})
_THREE = _Parts({**_SPLIT.by_split, "val": {"split": "val"}})
_TRAINVAL = _Parts({"train": {"split": "trainval"}, "test": {"split": "test"}})

_KNOWN = {
    "CIFAR10": _TRAIN,
    "CIFAR100": _TRAIN,
    "DTD": _THREE,
    "FGVCAircraft": _THREE,
    "FashionMNIST": _TRAIN,
    "Flowers102": _THREE,
    "Food101": _SPLIT,
    "GTSRB": _SPLIT,
    "Imagenette": _Parts({"train": {"split": "train"}, "val": {"split": "val"}}),
    "KMNIST": _TRAIN,
    "MNIST": _TRAIN,
    "OxfordIIITPet": _TRAINVAL,
    "QMNIST": _TRAIN,
    "STL10": _SPLIT,
    "SVHN": _SPLIT,
    "StanfordCars": _SPLIT,
    "USPS": _TRAIN,
}


class NamedDataset(Dataset):
    """A dataset that torchvision knows, kept in `datasets_folder()` and fetched there when it is missing.

    Args:
        name: `torchvision:NAME`; upper and lower case are the same.
        split: `train`, `val` or `test`, as far as the dataset has it.
        classes: names in the network's numbering.

    Raises:
        UsageError: there is no dataset or split of that name.
        BbxError: it is not there and cannot be fetched.
    """

    task = "classification"

    def __init__(self, name: str, split: str, classes: Sequence[str] | None = None) -> None:
        known = _known(name)
        parts = _KNOWN[known].by_split
        if split not in parts:
            raise UsageError(f"{name} has no part {split!r}.", hint=f"It has: {', '.join(parts)}.")
        self._name, self._split = known, split
        self._data = _fetched(known, parts[split])
        names = [_plain(each) for each in getattr(self._data, "classes", ())]
        if not names:
            names = [str(label) for label in range(max(self._own_label(i) for i in range(len(self))) + 1)]
        self._numbers = numbered(names, classes, name)
        self.classes = tuple(classes or names)

    def __len__(self) -> int:
        return len(self._data)

    def name(self, index: int) -> str:
        return f"{self._name}/{self._split}[{index}]"

    def image(self, index: int) -> Image.Image:
        try:
            return upright_rgb(self._data[index][0])
        except (OSError, ValueError, SyntaxError) as error:
            raise BbxError(f"{self.name(index)} cannot be decoded as an image: {error}.") from error

    def target(self, index: int) -> int:
        return self._numbers[self._own_label(index)]

    def _own_label(self, index: int) -> int:
        """In torchvision's numbering; without decoding the image where the labels are kept apart."""
        for attribute in ("targets", "labels", "_labels"):
            kept = getattr(self._data, attribute, None)
            if kept is not None:
                label = kept[index]  # QMNIST's has more in it: the writer, for one
                return int(label if np.ndim(label) == 0 else label[0])
        return int(self._data[index][1])


def is_named(data: str) -> bool:
    """Whether this names a dataset of torchvision."""
    return data.lower().startswith(PREFIX)


def named_splits(name: str) -> tuple[str, ...]:
    """The parts that a dataset of torchvision has.

    Raises:
        UsageError: there is no dataset of that name.
    """
    return tuple(_KNOWN[_known(name)].by_split)


def datasets_folder() -> Path:
    """Where torchvision's datasets are kept: `$BBX_DATASETS`, or `bbx/datasets` in the user's cache."""
    if chosen := os.environ.get("BBX_DATASETS"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "bbx", "datasets")


def _known(name: str) -> str:
    asked = name[len(PREFIX) :]
    found = next((known for known in _KNOWN if known.lower() == asked.lower()), None)
    if found is None:
        raise UsageError(
            f"There is no dataset {name!r}.",
            hint=did_you_mean(asked, _KNOWN) or f"Known: {', '.join(_KNOWN)}.",
        )
    return found


def _fetched(name: str, options: dict[str, Any]) -> Any:
    make: Callable[..., Any] = getattr(lazy.require("torchvision").datasets, name)
    folder = datasets_folder()
    try:
        return make(str(folder), download=True, **options)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise BbxError(
            f"{PREFIX}{name} is not in {folder} and cannot be fetched: {reason}.",
            hint="Put it there by hand, or set BBX_DATASETS to where it is.",
        ) from error


def _plain(name: Any) -> str:
    """The name of a class; a few datasets give several words for one."""
    return str(name if isinstance(name, str) else name[0])
