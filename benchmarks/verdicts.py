"""Whether a number may be believed: distrust as data, each reason with its remedy.

A measurement collects every reason that applies; its verdict is the gravest of them, and `valid` when
there is none. The judges are pure functions over numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bbx.benchmarks.contention import Load
from bbx.benchmarks.measure import Measurement
from bbx.benchmarks.reason import VERDICTS, Reason, Verdict, verdict_of
from bbx.benchmarks.roof import Floor
from bbx.benchmarks.runner_faults import (
    SHORTEST_LOAD_S,
    completion_reasons,
    first_run_reasons,
    roofline_reasons,
    waiting_reasons,
)
from bbx.benchmarks.stats import Samples, Summary, two_modes
from bbx.benchmarks.units import milliseconds

__all__ = ["VERDICTS", "Reason", "Verdict", "judge", "verdict_of"]

CONSISTENT_WITHIN = 0.05
DRIFT = 0.05
MODES_APART = 0.10
MODES_SEPARATION = 0.85
STOLEN = 0.01
HELD_BACK = 0.01
OTHERS_CORES = 0.10
CORES_FULL = 0.90
INVOLUNTARY_PER_S = 60.0
CLOCK_DROP = 0.90

_QUIET = "Stop what else runs on this machine and measure again."


def judge(
    measured: Measurement,
    *,
    parity: dict[str, Any] | None,
    throttled: Sequence[str] = (),
    unread: Sequence[str] = (),
    floor: Floor | None = None,
    undone_ns: int = 0,
    device: str = "cpu",
    one_at_a_time: bool = True,
    own: Sequence[Reason] = (),
) -> tuple[Reason, ...]:
    """Every reason not to believe a measurement, gravest first.

    Args:
        parity: what the comparison of the answers found, as JSON; None when there was no reference.
        throttled: why the GPU's clocks were held back, in words.
        unread: facts about the environment that could not be read.
        floor: the least time in which the machine could do the work; None where nobody knows.
        undone_ns: what a run leaves to whoever reads its answer; see `readiness`.
        device: that it ran on, `cpu` or `cuda`.
        one_at_a_time: whether a run began when the last one ended; else the trace is no sequence of equals.
        own: reasons that the row's scenario has found.
    """
    reasons = (
        *own,
        *parity_reasons(parity),
        *(trace_reasons(measured, device) if one_at_a_time else ()),
        *roofline_reasons(measured.summary.median, floor, measured.clock),
        *completion_reasons(measured.summary.median, undone_ns, measured.clock),
        *environment_reasons(unread, measured.load),
        *throttle_reasons(measured.load, throttled),
        *contention_reasons(measured.load),
    )
    return tuple(sorted(reasons, key=lambda reason: VERDICTS.index(reason.verdict)))


def trace_reasons(measured: Measurement, device: str = "cpu") -> list[Reason]:
    """Every reason not to believe a trace of runs that followed one another."""
    return [
        *consistency_reasons(measured.summary, measured.runs_per_s, measured.clock),
        *(waiting_reasons(measured.load, measured.clock) if device == "cpu" else ()),
        *stability_reasons(measured.samples),
        *convergence_reasons(measured),
    ]


def parity_reasons(parity: dict[str, Any] | None) -> list[Reason]:
    """`parity_failed` when the answers are not the reference's."""
    if parity is None or parity["verdict"] != "fail":
        return []
    found = parity.get("reasons") or ["The answers are not the reference's."]
    return [
        Reason(
            "parity_failed",
            found[0],
            "Use another precision, or see the artefact's manifest.",
        )
    ]


def consistency_reasons(summary: Summary, runs_per_s: float, clock: str = "perf_counter_ns") -> list[Reason]:
    """`inconsistent` when the numbers of one trace contradict each other.

    Args:
        runs_per_s: by the host's clock.
        clock: the one that the latencies were taken with.
    """
    reasons = []
    if summary.p99 is not None and summary.mean > summary.p99:
        reasons.append(
            Reason(
                "inconsistent",
                f"The mean ({milliseconds(summary.mean)}) is above the 99th percentile "
                f"({milliseconds(summary.p99)}): rare stalls outweigh all other runs.",
                f"Look at the trace in `samples`. {_QUIET}",
            )
        )
    concurrency = runs_per_s * summary.mean / 1e9
    # Reading event pairs takes host time between chunks, so an event clock may cover less, never more.
    too_little = concurrency < 1 - CONSISTENT_WITHIN and clock != "cuda_event"
    if too_little or concurrency > 1 + CONSISTENT_WITHIN:
        reasons.append(
            Reason(
                "inconsistent",
                f"Throughput times mean latency is {concurrency:.2f}, and one run at a time gives 1.00: "
                "the runner's clock does not cover the time that passed.",
                "Use a slower model or a larger batch, or report the runner's clock as a defect.",
            )
        )
    return reasons


def environment_reasons(unread: Sequence[str], load: Load) -> list[Reason]:
    """`unknown_environment` when the machine, or what else ran on it, cannot be told."""
    missing = [*unread, *(["/proc/stat"] if load.other_cores is None else [])]
    if not missing:
        return []
    return [
        Reason(
            "unknown_environment",
            f"This could not be read: {', '.join(missing)}.",
            "Measure where /proc and, for a GPU, NVML can be read.",
        )
    ]


def throttle_reasons(load: Load, throttled: Sequence[str]) -> list[Reason]:
    """`throttled` when the GPU or the CPU ran slower than it was asked to."""
    seen = [f"the GPU's clocks were held back ({', '.join(throttled)})"] if throttled else []
    if load.thermal_events:
        seen.append(f"CPU cores slowed down {load.thermal_events} times because they were hot")
    if load.clock_ratio is not None and load.clock_ratio < CLOCK_DROP:
        seen.append(f"the CPU's clock fell to {load.clock_ratio:.0%} of what it was at the beginning")
    if not seen:
        return []
    text = "; ".join(seen)
    return [Reason("throttled", f"{text[0].upper()}{text[1:]}.", "Cool it, lock the clocks, or wait.")]


def contention_reasons(load: Load) -> list[Reason]:
    """`contended` when something else took CPU time that this measurement could have used.

    Not judged for less than `SHORTEST_LOAD_S`.
    """
    if load.seconds < SHORTEST_LOAD_S:
        return []
    seen = []
    if load.steal_share is not None and load.steal_share > STOLEN:
        seen.append(f"the hypervisor took {load.steal_share:.1%} of the CPU time")
    if load.throttled_share is not None and load.throttled_share > HELD_BACK:
        seen.append(f"the control group's CPU quota held it back for {load.throttled_share:.1%} of the time")
    others = load.other_cores or 0.0
    if others > OTHERS_CORES and load.own_cores + others > CORES_FULL * load.cores:
        seen.append(f"other processes kept {others:.2f} of {load.cores} CPUs busy, and none was left idle")
    if load.involuntary_per_s > INVOLUNTARY_PER_S * load.cores:
        seen.append(f"the kernel took the CPU away {load.involuntary_per_s:.0f} times a second")
    if not seen:
        return []
    text = "; ".join(seen)
    return [Reason("contended", f"{text[0].upper()}{text[1:]}.", _QUIET)]


def stability_reasons(samples: Samples) -> list[Reason]:
    """`unstable` when one number does not describe the trace: it begins slowly, drifts, or has two modes."""
    reasons = first_run_reasons(samples)
    quarters = [float(np.median(part)) for part in np.array_split(samples, 4) if part.size]
    drift = max(quarters) / min(quarters) - 1 if min(quarters) > 0 else 0.0
    if drift > DRIFT and samples.size >= 20:
        medians = ", ".join(milliseconds(value) for value in quarters)
        reasons.append(
            Reason(
                "unstable",
                f"The speed changed by {drift:.0%} on the way (medians of the four quarters: {medians}).",
                "Measure again with a longer profile; if it stays, look for heat or memory growth.",
            )
        )
    modes = two_modes(samples)
    if modes and modes.separation > MODES_SEPARATION and modes.high > modes.low * (1 + MODES_APART):
        reasons.append(
            Reason(
                "unstable",
                f"There are two speeds: {1 - modes.share:.0%} of the runs take about "
                f"{milliseconds(modes.low)} and {modes.share:.0%} about {milliseconds(modes.high)}, "
                "so their median means little.",
                "Pin the threads (`taskset`), fix the clocks, and measure again.",
            )
        )
    return reasons


def convergence_reasons(measured: Measurement) -> list[Reason]:
    """`not_converged` when the cap came before the median was known well enough."""
    interval = measured.summary.ci95
    if interval is None:
        text = f"{measured.summary.n} runs fitted into the time, too few for an interval of the median"
    elif (reach := interval.reach(measured.summary.median)) > measured.target:
        text = f"The median is known to ±{reach:.1%}, and ±{measured.target:.1%} was wanted"
    else:
        return []
    return [Reason("not_converged", f"{text}.", "Use --profile report or long, or a quieter machine.")]
