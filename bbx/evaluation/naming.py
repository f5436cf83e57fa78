"""Which number a network has for each class of the data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from bbx import lazy, process
from bbx.datasets.files import few
from bbx.errors import BbxError

_WORDNET = re.compile(r"n\d{8}")
"""What the class folders of ImageNet are called."""

_IMAGENET = 1000


def numbers_of(found: Sequence[str], known: Sequence[str] | None, num_classes: int) -> NDArray[np.int64]:
    """The network's number of each class of the data, in the data's order.

    By name where the network's names have all of the data's: to the letter, else as if upper and lower case,
    spaces and underscores were the same, where that leaves one; ImageNet's folders (`n01440764`) by their
    place in it; else by order where there are equally many, with a warning.

    Args:
        found: names of the data's classes.
        known: the network's names; None where nobody said.
        num_classes: of the network.

    Returns:
        int64 [len(found)].

    Raises:
        BbxError: neither the names nor the counts agree; lists them.
    """
    if known is not None and list(found) == list(known):
        return np.arange(len(known))  # ImageNet has a crane twice
    places = _places(found, known or ())
    if len({place for place in places if place is not None}) == len(found):
        return np.array(places, dtype=np.int64)
    if num_classes == _IMAGENET and all(_WORDNET.fullmatch(name) for name in found):
        return _by_wordnet(found)
    counts = Counter(places)
    unknown = [name for name, place in zip(found, places, strict=True) if place is None or counts[place] > 1]
    if len(found) != num_classes or len(unknown) < len(found):
        raise _no_match(found, known, num_classes, unknown)
    said = f"it calls them {few(known)}" if known else "it does not name its own"
    process.warn(
        f"The network's classes are taken in the data's order ({few(found)}): {said}. If that is another "
        "order, name them with --classes FILE."
    )
    return np.arange(num_classes)


def _places(found: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """The one place of each name among the network's; None where there is none, or several."""
    exact: dict[str, list[int]] = {}
    alike: dict[str, list[int]] = {}
    for place, name in enumerate(known):
        exact.setdefault(name, []).append(place)
        alike.setdefault(_plain(name), []).append(place)
    candidates = [exact.get(name) or alike.get(_plain(name), []) for name in found]
    return [each[0] if len(each) == 1 else None for each in candidates]


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _by_wordnet(found: Sequence[str]) -> NDArray[np.int64]:
    """The places of ImageNet's folders in ImageNet, from the list that timm brings."""
    lazy.require("timm")
    listed = (files("timm.data") / "_info" / "imagenet_synsets.txt").read_text().split()
    places = {name: place for place, name in enumerate(listed)}
    unknown = [name for name in found if name not in places]
    if unknown:
        raise BbxError(f"The folders {few(unknown)} are no classes of ImageNet-1k.")
    return np.array([places[name] for name in found], dtype=np.int64)


def _no_match(
    found: Sequence[str], known: Sequence[str] | None, num_classes: int, unknown: Sequence[str]
) -> BbxError:
    theirs = f" ({few(known, most=5)})" if known else ", which nobody named"
    count = f"{len(found)} class{'es' if len(found) > 1 else ''}"
    those = f"{few(unknown, most=5)} {'are' if len(unknown) > 1 else 'is'}"
    return BbxError(
        f"The data has {count}, of which {those} none of the network's {num_classes}{theirs}.",
        hint="Type --classes FILE: the network's classes as the data calls them, one a line, in its order.",
    )
