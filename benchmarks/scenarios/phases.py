"""A request from its source to its answer, whole and phase by phase.

The source is a decoded photograph or an array in host memory; the answer is in host memory, and of a
photograph it is what the outputs say about it. A phase that does not happen is absent, not nought: on a CPU
nothing is copied to a device, and an array needs no preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bbx.benchmarks.decide import paired
from bbx.benchmarks.stats import Samples, median_interval
from bbx.benchmarks.units import milliseconds
from bbx.benchmarks.verdicts import CONSISTENT_WITHIN, Reason
from bbx.errors import UsageError
from bbx.images import apply, photograph_images
from bbx.outputs import restore
from bbx.pipeline.cases import guess_preprocess
from bbx.runners.base import Arrays, Bound, Feeds, Runner, Staged, sample_host_clock
from bbx.types import Postprocess, Preprocess

END_TO_END = "end_to_end"
IN_TURN = ("pre", "h2d", "compute", "d2h", "post")
"""Phases that follow one another. `enqueue` is host time while the device may compute already, so it is shown
and not added."""

WAITS_FOR_HOST = 0.95
"""Part of the device's time from which on the host's decides it: a device's events measure its waits too."""

_FEWEST = 12
"""Turns from which on a difference can be told from chance; see `decide.paired`."""

_MOST = 2000


@dataclass(frozen=True, slots=True)
class Journey:
    """A request that can be made again and again.

    Attributes:
        pre: makes the feeds from the photographs; None where the source is the feeds.
        feeds: the source, where it is no photograph.
        staged: the inference, from host memory to host memory.
        post: what the outputs say about the photographs; None where nothing is known of the outputs.
    """

    pre: Callable[[], Feeds] | None
    feeds: Feeds
    staged: Staged
    post: Callable[[Arrays], object] | None

    def whole(self) -> Arrays:
        """Make the request; gives the network's outputs."""
        outputs = self.staged.run(self.pre() if self.pre else self.feeds)
        if self.post:
            self.post(outputs)
        return outputs

    def in_phases(self, now: Callable[[], int]) -> dict[str, int]:
        """Make the request; gives the nanoseconds of each phase."""
        spent = {}
        feeds = self.feeds
        if self.pre:
            begun = now()
            feeds = self.pre()
            spent["pre"] = now() - begun
        outputs, stages = self.staged.timed(feeds)
        spent |= stages
        if self.post:
            begun = now()
            self.post(outputs)
            spent["post"] = now() - begun
        return spent

    def bound(self) -> Bound:
        """The whole request as an inference to be measured, by the host's clock."""
        last: Arrays = {}

        def step() -> None:
            nonlocal last
            last = self.whole()

        step()
        return Bound(step, lambda count: sample_host_clock(step, count), "perf_counter_ns", lambda: last)


def from_memory(runner: Runner, feeds: Feeds, *, pinned: bool) -> Journey:
    """A request whose source is an array in host memory.

    Args:
        pinned: it is page-locked, which only a runtime on a GPU has.
    """
    return Journey(None, runner.pin(feeds) if pinned else feeds, runner.stage(feeds), None)


def from_photographs(
    runner: Runner, feeds: Feeds, preprocess: Preprocess | None, postprocess: Postprocess | None, batch: int
) -> Journey:
    """A request whose source is as many of the bundled photographs, decoded.

    Args:
        feeds: what the same photographs become; the runtime is prepared for their shape.
        postprocess: what the outputs are; None where nobody said.

    Raises:
        UsageError: the runtime's input is no image.
    """
    how = preprocess or guess_preprocess(runner.inputs)
    if how is None:
        raise UsageError(
            f"{runner.name} takes no image, so a photograph cannot be its source.",
            hint="Leave out --residence image.",
        )
    images = photograph_images(batch)
    name = runner.inputs[0].name

    def pre() -> Feeds:
        return {name: np.stack([apply(image, how) for image in images])}

    post = None
    if postprocess is not None and _says_something(postprocess, runner):
        post = partial(restore, preprocess=how, postprocess=postprocess, sizes=[each.size for each in images])
    return Journey(pre, {}, runner.stage(feeds), post)


def _says_something(postprocess: Postprocess, runner: Runner) -> bool:
    """Whether the outputs are an answer about an image: pooled features are none."""
    return postprocess.task != "classification" or any(spec.name == "logits" for spec in runner.outputs)


def sample_phases(
    journey: Journey, now: Callable[[], int], *, at_least_s: float, cap_s: float, most: int = _MOST
) -> dict[str, Samples]:
    """Requests made whole and phase by phase in turns, so that what disturbs one disturbs the other.

    Args:
        at_least_s: how long to go on, and until there are enough to judge.
        cap_s: no turn but the first is begun after this.
        most: turns.

    Returns:
        int64 [n] nanoseconds by phase, `end_to_end` among them.
    """
    taken: dict[str, list[int]] = {}
    begun, turns, spent_s = now(), 0, 0.0
    while not turns or (spent_s < cap_s and turns < most and (turns < _FEWEST or spent_s < at_least_s)):
        parts = journey.in_phases(now) if turns % 2 else {}
        start = now()
        journey.whole()
        whole = {END_TO_END: now() - start}
        parts = parts or journey.in_phases(now)
        for name, value in (parts | whole).items():
            taken.setdefault(name, []).append(value)
        turns, spent_s = turns + 1, (now() - begun) / 1e9
    return {name: np.array(values, dtype=np.int64) for name, values in taken.items()}


def summary_of(phases: Mapping[str, Samples]) -> dict[str, Any]:
    """The row's `phases_ns`: for each phase its median, 95 % interval and number of samples."""
    found = {}
    for name, samples in phases.items():
        interval = median_interval(samples)
        found[name] = {
            "median": float(np.median(samples)),
            "ci95": [interval.low, interval.high] if interval else None,
            "samples": samples.size,
        }
    return found


def phase_reasons(phases: Mapping[str, Samples]) -> list[Reason]:
    """Every reason that phases give not to believe the whole.

    Args:
        phases: as `sample_phases` gives them.
    """
    return [*sum_reasons(phases), *bound_reasons(phases)]


def bound_reasons(phases: Mapping[str, Samples]) -> list[Reason]:
    """`enqueue_bound` and `transfer_bound` when the number is more of the host or the bus than of the device.

    Args:
        phases: as `sample_phases` gives them; without those of a device there is nothing to judge.
    """
    spent = {name: float(np.median(samples)) for name, samples in phases.items()}
    if "h2d" not in spent:
        return []
    reasons = []
    if spent["enqueue"] > WAITS_FOR_HOST * spent["compute"]:
        reasons.append(
            Reason(
                "enqueue_bound",
                f"The host spends {milliseconds(spent['enqueue'])} on enqueueing what the device computes in "
                f"{milliseconds(spent['compute'])}: the device waits for the host.",
                "Use --cuda-graph, a compiled runtime, or a larger batch.",
            )
        )
    copies = spent["h2d"] + spent["d2h"]
    if copies > spent["compute"]:
        reasons.append(
            Reason(
                "transfer_bound",
                f"Copies take {milliseconds(copies)}, and the inference {milliseconds(spent['compute'])}.",
                "Use --input uint8, --residence pinned, or device where the input is made there.",
            )
        )
    return reasons


def sum_reasons(phases: Mapping[str, Samples]) -> list[Reason]:
    """`inconsistent` when the phases together take longer than the whole that they are parts of.

    The two are compared turn by turn, and by more than chance: see `decide.paired`.

    Args:
        phases: as `sample_phases` gives them.
    """
    together = np.sum([phases[name] for name in IN_TURN if name in phases], axis=0)
    ratios = np.log(together / phases[END_TO_END])
    if paired(ratios.tolist(), effect=CONSISTENT_WITHIN).change != "slower":
        return []
    parts, whole = (float(np.median(each)) for each in (together, phases[END_TO_END]))
    return [
        Reason(
            "inconsistent",
            f"The phases together take {milliseconds(parts)}, and the whole {milliseconds(whole)}.",
            "Report the runner's clock as a defect: it counts some time twice.",
        )
    ]
