"""The conditions under which a subject is measured on a runtime: all that were asked for and have sense.

What has none is left out with a reason, as rows that a runtime cannot run are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict, cast, get_args

from bbx.errors import UnavailableError, UsageError, did_you_mean
from bbx.types import Precision

Scenario = Literal["single", "multi", "offline", "server"]
"""`single`: one request at a time, the next when the last is answered. `multi`: the same for several sizes of
a request. `offline`: as many in flight as it takes to do the most work. `server`: as they come in."""

RATES: tuple[Scenario, ...] = ("offline", "server")
"""Scenarios whose result is a throughput; the latencies are those at it."""

Cache = Literal["hot", "cold"]
"""What a run finds in the CPU's caches: what the last one left there, or nothing of it."""

Residence = Literal["device", "pinned", "pageable", "image"]
"""Where a request's input lies when its time begins: on the device; in page-locked or in ordinary host
memory, from where it is copied, and the answer back; or nowhere yet, because it is a decoded photograph."""

HOME: dict[str, Residence] = {"cpu": "pageable", "cuda": "device"}
"""Where a device's runtimes want their input, so that nothing is copied."""

BATCHES: dict[Scenario, tuple[int, ...]] = {
    "single": (1,),
    "multi": (1, 2, 4, 8),
    "offline": (1,),
    "server": (1,),
}
"""Batches of a scenario where none are named."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that was not measured.

    Attributes:
        include: what to type or do to have it measured.
    """

    what: str
    reason: str
    include: str

    def to_json(self) -> dict[str, str]:
        """As the report shows it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What was asked for; an empty tuple stands for what suits the scenario or the device.

    Attributes:
        batches: images of a request.
        threads: intra-op threads; None among them is the runtime's own choice.
        slo_ns: the limit of `server`, for the 99th percentile.
        cuda_graph: capture one inference, on the runtimes that can, and replay it.
    """

    precisions: tuple[Precision, ...] = ()
    batches: tuple[int, ...] = ()
    scenarios: tuple[Scenario, ...] = ("single",)
    threads: tuple[int | None, ...] = (None,)
    caches: tuple[Cache, ...] = ("hot",)
    residences: tuple[Residence, ...] = ()
    slo_ns: int | None = None
    cuda_graph: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """One combination of those."""

    batch: int
    scenario: Scenario
    threads: int | None
    cache: Cache
    residence: Residence
    slo_ns: int | None


class Asked(TypedDict, total=False):
    """What `conditions` takes, in the words of the command line.

    Attributes:
        threads: several are a sweep, which begins with the runtime's own choice.
        slo_ms: limit of `server` in milliseconds.
    """

    precisions: Sequence[Precision]
    batches: Sequence[int]
    scenarios: Sequence[str]
    threads: Sequence[int] | int | None
    caches: Sequence[str]
    residences: Sequence[str]
    slo_ms: float | None
    cuda_graph: bool


def conditions(asked: Asked, *, gpu: bool) -> Conditions:
    """What was asked for, checked.

    Args:
        gpu: whether this machine has one.

    Raises:
        UsageError: there is no such thing, or the options do not go together.
        UnavailableError: it takes a GPU.
    """
    batches, counts = asked.get("batches", ()), _counts(asked.get("threads"))
    for option, values in (("--batch", batches), ("--threads", counts)):
        for value in values:
            if value < 1:
                raise UsageError(f"{option} must be at least 1, and is {value}.")
    scenarios: tuple[Scenario, ...] = _known("scenario", asked.get("scenarios", ()), Scenario) or ("single",)
    residences: tuple[Residence, ...] = _known("residence", asked.get("residences", ()), Residence)
    if not gpu:
        _refuse_what_needs_a_gpu(residences, cuda_graph=asked.get("cuda_graph", False))
    return Conditions(
        precisions=tuple(asked.get("precisions", ())),
        batches=tuple(dict.fromkeys(batches)),
        scenarios=scenarios,
        threads=(None, *dict.fromkeys(counts)) if len(counts) > 1 else counts or (None,),
        caches=_known("cache", asked.get("caches", ()), Cache) or ("hot",),
        residences=residences,
        slo_ns=_slo(asked.get("slo_ms"), scenarios),
        cuda_graph=asked.get("cuda_graph", False),
    )


def _counts(threads: Sequence[int] | int | None) -> tuple[int, ...]:
    return (threads,) if isinstance(threads, int) else tuple(threads or ())


def _refuse_what_needs_a_gpu(residences: Sequence[Residence], *, cuda_graph: bool) -> None:
    for residence in residences:
        if residence in ("device", "pinned"):
            raise UnavailableError(
                f"--residence {residence} needs an NVIDIA GPU, and this machine has none.",
                hint="Type --residence pageable or image.",
            )
    if cuda_graph:
        raise UnavailableError("--cuda-graph needs an NVIDIA GPU, and this machine has none.")


def _known(what: str, names: Iterable[str], kind: Any) -> tuple[Any, ...]:
    """The names, each once, that are all of a kind (a `Literal`)."""
    known = get_args(kind)
    for name in names:
        if name not in known:
            raise UsageError(f"There is no {what} {name!r}.", hint=did_you_mean(name, known))
    return tuple(dict.fromkeys(names))


def _slo(slo_ms: float | None, scenarios: Sequence[Scenario]) -> int | None:
    """The limit in nanoseconds; None where no scenario has one."""
    if "server" not in scenarios:
        if slo_ms is not None:
            raise UsageError("--slo belongs to the scenario `server`.", hint="Type --scenario server.")
        return None
    if slo_ms is None:
        raise UsageError(
            "--scenario server looks for the highest rate at which a limit holds, and there is no limit.",
            hint="Type --slo and the milliseconds within which 99 % of the requests are to be answered.",
        )
    if not (math.isfinite(slo_ms) and slo_ms > 0):
        raise UsageError(f"--slo is a time in milliseconds, and is {slo_ms:g}.", hint="Type --slo 50.")
    return round(slo_ms * 1e6)


def combined(
    asked: Conditions, runtime: str, device: str, left_out: dict[str, LeftOut]
) -> Iterator[Condition]:
    """The conditions of a runtime's rows.

    Args:
        device: that the runtime computes on, `cpu` or `cuda`.
        left_out: told, by name, of what has no sense there.
    """
    home = HOME[device]
    threads = asked.threads if device == "cpu" else (None,)
    if threads != asked.threads:
        _leave(left_out, f"{runtime} --threads", "It computes on the GPU.", "Name a runtime on a CPU.")
    for scenario in asked.scenarios:
        for residence in asked.residences or (home,):
            for cache in asked.caches:
                reason = _senseless(scenario, cache, residence, device)
                if reason is not None:
                    what = f"{runtime} {scenario} {cache} {residence}"
                    _leave(left_out, what, *reason)
                    continue
                slo_ns = asked.slo_ns if scenario == "server" else None
                for count in threads:
                    for batch in asked.batches or BATCHES[scenario]:
                        yield Condition(batch, scenario, count, cache, residence, slo_ns)


def _leave(left_out: dict[str, LeftOut], what: str, reason: str, include: str) -> None:
    left_out.setdefault(what, LeftOut(what, reason, include))


def _senseless(scenario: Scenario, cache: Cache, residence: Residence, device: str) -> tuple[str, str] | None:
    """Why a combination is not measured, and what would be; None where it is."""
    if device == "cpu" and residence in ("device", "pinned"):
        return "It computes on the CPU, and copies nothing to a device.", "Name a runtime on a GPU."
    if cache == "cold" and device != "cpu":
        return "Only a CPU's caches are emptied.", "Name a runtime on a CPU."
    if cache == "cold" and scenario not in ("single", "multi"):
        return "Caches are emptied between runs that follow one another.", "--scenario single"
    if scenario == "offline" and device != "cpu" and residence != HOME[device]:
        return "A GPU is kept busy with inputs that lie on it.", "--residence device"
    return None


def described(row: Mapping[str, Any]) -> str:
    """The conditions of a row that is not a plain one, in a few words; its scenario alone where it is.

    Args:
        row: as the report has it.
    """
    device = row.get("device") or "cpu"
    parts = [str(row["scenario"])]
    if row.get("slo_ns"):
        parts[0] += f" within {row['slo_ns'] / 1e6:g} ms"
    if row.get("threads_asked"):
        parts.append(f"{row['threads_asked']} thread{'s' if row['threads_asked'] > 1 else ''}")
    if row.get("cache") == "cold":
        parts.append("cold")
    residence = cast(str | None, row.get("residence"))
    if residence not in (None, HOME.get(device)):
        parts.append(f"from {residence}")
    return ", ".join(parts)
