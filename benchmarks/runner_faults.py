"""Signs that a runner did not do its work, did it later, or did something else meanwhile: pure functions."""

from __future__ import annotations

from bbx.benchmarks.contention import Load
from bbx.benchmarks.reason import Reason
from bbx.benchmarks.roof import Floor
from bbx.benchmarks.stats import Samples
from bbx.benchmarks.units import milliseconds

UNDONE = 0.20
UNDONE_NS = 100_000
"""Below this the time of reading an answer is the allocator's, not the run's."""
WAITING_CORES = 0.5
FIRST_RUNS = 3
FIRST_APART = 3.0
SHORTEST_LOAD_S = 0.5
"""Below this the kernel's counters, which move in steps of 10 ms, say nothing."""


def roofline_reasons(median_ns: float, floor: Floor | None, clock: str = "perf_counter_ns") -> list[Reason]:
    """`inconsistent` when a run is faster than the machine can do its arithmetic.

    Args:
        clock: that the run was timed with; a virtual one says nothing of this machine.
    """
    if floor is None or median_ns >= floor.ns or clock == "virtual":
        return []
    return [
        Reason(
            "inconsistent",
            f"A run takes {milliseconds(median_ns)}, and {floor.machine} need at least "
            f"{milliseconds(floor.ns)} for {floor.flops / 1e9:.3g} GFLOPs "
            f"({floor.peak / 1e12:.3g} TFLOP/s at most): the work was not done, or not waited for.",
            "Look at whether the runner waits for its answer and computes every one anew.",
        )
    ]


def completion_reasons(median_ns: float, undone_ns: int, clock: str = "perf_counter_ns") -> list[Reason]:
    """`inconsistent` when a run returns before its work is done.

    Args:
        undone_ns: what it leaves to whoever reads its answer; see `readiness`.
        clock: that the run was timed with; the events of a device tell when its work is done.
    """
    if clock == "cuda_event" or undone_ns < max(UNDONE_NS, UNDONE * median_ns):
        return []
    return [
        Reason(
            "inconsistent",
            f"A run takes {milliseconds(median_ns)}, and who reads its answer waits "
            f"{milliseconds(undone_ns)} more: it returns before its work is done.",
            "Make the runner wait for its answer inside the clock.",
        )
    ]


def waiting_reasons(load: Load, clock: str) -> list[Reason]:
    """`inconsistent` when runs on a CPU mostly wait while CPUs are idle: they sleep, or read a disk.

    Not judged for less than `SHORTEST_LOAD_S`, or where the clock is a device's or a fake's.
    """
    if clock != "perf_counter_ns" or load.seconds < SHORTEST_LOAD_S:
        return []
    idle = load.cores - load.own_cores - (load.other_cores or 0.0)
    if load.own_cores >= WAITING_CORES or idle < WAITING_CORES:
        return []
    return [
        Reason(
            "inconsistent",
            f"The runs kept {load.own_cores:.2f} CPUs busy and left {idle:.2f} of {load.cores} idle: most of "
            "their time they waited for something.",
            "Look for a sleep, a lock or a disk in the runner.",
        )
    ]


def first_run_reasons(samples: Samples) -> list[Reason]:
    """`unstable` when one of the first runs outlasts all others by far: something was made on first use."""
    first, rest = samples[:FIRST_RUNS], samples[FIRST_RUNS:]
    if not rest.size or first.max() <= FIRST_APART * rest.max():
        return []
    return [
        Reason(
            "unstable",
            f"One of the first {FIRST_RUNS} runs took {milliseconds(first.max())}, and no later one more "
            f"than {milliseconds(rest.max())}: something was compiled or loaded inside the measurement.",
            "Use --profile report, which warms up for longer.",
        )
    ]
