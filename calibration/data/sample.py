"""Drawing images from a source, looking at each once, and dividing them in two parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bbx import process
from bbx.calibration.data.lint import Seen
from bbx.calibration.data.previews import Preview
from bbx.calibration.data.record import SkippedImage, Split
from bbx.calibration.data.source import Broken, Entry, Source
from bbx.datasets.files import require_few_broken
from bbx.errors import BbxError

WORKERS = min(8, os.cpu_count() or 1)
"""Threads that decode; Pillow lets go of the interpreter while it does."""

HELD_OUT = 4
"""One image in so many is held out: not measured, and used to choose between methods."""

_TURN = 256
"""Images that are looked at before the broken ones are counted."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn from a source: in the source's order, and what could not be decoded."""

    seen: tuple[Seen, ...]
    skipped: tuple[SkippedImage, ...]


def drawn(source: Source, most: int, seed: int) -> Drawn:
    """Draw at most so many images, in place of a broken one the next.

    The order in which they are drawn is that of the SHA-256 of seed and name: it hangs on no library's random
    numbers, and a further image in the source changes at most one in the sample.

    Raises:
        BbxError: more than 1 % of the images looked at cannot be decoded, or one holds NaN or infinity.
    """
    order = _shuffled(source.entries, seed, "sample")
    seen: dict[int, Seen] = {}
    skipped: list[SkippedImage] = []
    position = 0
    while len(seen) < most and position < len(order):
        turn = order[position : position + min(most - len(seen), _TURN)]
        position += len(turn)
        looks = looked_at(source, [source.entries[index] for index in turn])
        for index, (entry, look) in zip(turn, looks, strict=True):
            if isinstance(look, Broken):
                skipped.append(SkippedImage(path=entry.path, reason=look.reason))
            else:
                seen[index] = Seen(entry, look)
        require_few_broken(
            [each.reason for each in skipped],
            among=min(len(order), most + len(skipped)),
            cannot_be="decoded",
        )
    return Drawn(tuple(seen[index] for index in sorted(seen)), tuple(skipped))


def looked_at(source: Source, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Preview | Broken]]:
    """Look at entries, several at a time and in their order.

    Raises:
        BbxError: as `Source.preview`.
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        for index, (entry, look) in enumerate(zip(entries, pool.map(source.preview, entries), strict=True)):
            process.progress("calibration data", index / len(entries), entry.name)
            yield entry, look


def divided(seen: Sequence[Seen], seed: int) -> list[tuple[Seen, Split]]:
    """Hold out one image in four, and at least one; drawn as the sample is.

    Raises:
        BbxError: there are fewer than two.
    """
    if len(seen) < 2:
        raise BbxError(
            f"{len(seen)} image was found, and calibration takes at least 2: ranges are measured on one "
            "part, and methods are chosen on the other.",
            hint="Give some hundred images like those that the model will meet.",
        )
    order = _shuffled([each.entry for each in seen], seed, "held out")
    held_out = set(order[: max(1, len(seen) // HELD_OUT)])
    return [(each, "held_out" if index in held_out else "calibration") for index, each in enumerate(seen)]


def whole_batches(parts: Sequence[tuple[Seen, Split]], batch: int) -> list[tuple[Seen, Split]]:
    """Leave out the last images of each part, so that it fills batches of a size that the graph fixes.

    A part that has not enough takes what it lacks from the other.

    Raises:
        BbxError: there are not two batches.
    """
    held_out = [index for index, (_, split) in enumerate(parts) if split == "held_out"]
    measured = [index for index, (_, split) in enumerate(parts) if split == "calibration"]
    lacking = max(0, batch - len(held_out))
    held_out, measured = (
        [*held_out, *measured[len(measured) - lacking :]],
        measured[: len(measured) - lacking],
    )
    if min(len(held_out), len(measured)) < batch:
        raise BbxError(
            f"The graph takes {batch} images a run, and {len(parts)} were found: calibration takes at least "
            f"{2 * batch}, one batch to measure and one to choose a method by.",
            hint="Give more images, or a graph with a smaller or a dynamic batch.",
        )
    kept: dict[int, Split] = dict.fromkeys(held_out[: len(held_out) // batch * batch], "held_out")
    kept |= dict.fromkeys(measured[: len(measured) // batch * batch], "calibration")
    return [(parts[index][0], kept[index]) for index in sorted(kept)]


def _shuffled(entries: Sequence[Entry], seed: int, purpose: str) -> list[int]:
    """Positions of entries in a seeded order."""

    def rank(index: int) -> tuple[bytes, int]:
        try:
            text = f"{purpose}\0{seed}\0{entries[index].name}".encode()
        except UnicodeEncodeError as error:
            raise BbxError(
                f"The file name {entries[index].name!r} is not UTF-8, and cannot be recorded.",
                hint="Rename the file.",
            ) from error
        return hashlib.sha256(text).digest(), index

    return sorted(range(len(entries)), key=rank)
