"""The number that a network has for a class of the data."""

from __future__ import annotations

from collections.abc import Sequence

from bbx.datasets.files import few
from bbx.errors import BbxError, did_you_mean


def numbered(found: Sequence[str], wanted: Sequence[str] | None, where: object) -> tuple[int, ...]:
    """The place of each class that the data has in the order that is wanted.

    Args:
        found: names of the data's classes.
        wanted: all names in the network's numbering; None takes the data's own order.
        where: what the data is, for the error.

    Raises:
        BbxError: the data has a class that is not wanted.
    """
    if wanted is None:
        return tuple(range(len(found)))
    places = {name: place for place, name in enumerate(wanted)}
    unknown = [name for name in found if name not in places]
    if unknown:
        raise BbxError(
            f"{where} has the classes {few(unknown)}, which are none of the {len(places)} asked for.",
            hint=did_you_mean(unknown[0], wanted),
        )
    return tuple(places[name] for name in found)
