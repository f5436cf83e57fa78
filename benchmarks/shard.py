"""Parts of a run, for several jobs whose reports are merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bbx.benchmarks.plan import Subject
from bbx.errors import UsageError


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts of a run, for as many machines or CI jobs.

    Subjects are dealt out in turns, so that the rows of one share its artefacts and every part has some of
    each family. The same words give the same parts everywhere.

    Attributes:
        index: from 1.
        count: of all parts.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(
                f"There is no shard {self}.", hint="Type --shard 1/4 to --shard 4/4, for example."
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, subjects: Mapping[str, Subject]) -> dict[str, Subject]:
        """This part of the subjects.

        Raises:
            UsageError: there are fewer subjects than parts, and this part is empty.
        """
        names = list(subjects)[self.index - 1 :: self.count]
        if not names:
            raise UsageError(
                f"Shard {self} is empty: there are {len(subjects)} subjects.",
                hint=f"Type --shard I/{len(subjects)} at most.",
            )
        return {name: subjects[name] for name in names}
