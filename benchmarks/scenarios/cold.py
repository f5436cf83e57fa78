"""Cold caches: what the last run left in the CPU's caches is pushed out before the next.

Each CPU walks memory of its own, in a thread that stays on it, because the inner caches are private; together
they walk twice the size of the outermost one. All of it happens outside the clock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bbx.benchmarks.contention import ROOT, read_text, usable_cpus
from bbx.benchmarks.stats import Samples
from bbx.runners.base import Bound

UNKNOWN_BYTES = 64 << 20
"""Taken for the last-level cache where the kernel does not tell its size."""

_TIMES = 2
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class Caches:
    """Sizes in bytes of one CPU's caches.

    Attributes:
        last: the outermost.
        private: the one before it, which is the CPU's own; 0 where there is none or it is not known.
    """

    last: int
    private: int


def caches_of(cpu: int, root: Path = ROOT) -> Caches:
    """The data caches of a CPU, as the kernel tells them."""
    sizes: dict[int, int] = {}
    for folder in root.glob(f"sys/devices/system/cpu/cpu{cpu}/cache/index[0-9]*"):
        level, kind, size = (read_text(folder / name) for name in ("level", "type", "size"))
        if level and size and kind != "Instruction":
            sizes[int(level)] = int(size[:-1]) * _UNITS[size[-1]] if size[-1] in _UNITS else int(size)
    in_order = [sizes[level] for level in sorted(sizes)]
    if not in_order:
        return Caches(UNKNOWN_BYTES, 0)
    return Caches(in_order[-1], in_order[-2] if len(in_order) > 1 else 0)


class Evictor:
    """Empties the caches of all CPUs of this process; made by `evicting`."""

    def __init__(self, pools: list[ThreadPoolExecutor], slices: list[NDArray[np.int64]]) -> None:
        self._pools = pools
        self._slices = slices

    def evict(self) -> None:
        """Walk through the memory, and return when every CPU is done."""
        walks = zip(self._pools, self._slices, strict=True)
        wait([pool.submit(_walk, part) for pool, part in walks])


def _walk(part: NDArray[np.int64]) -> None:
    """Read and write every line; NumPy gives up the interpreter's lock meanwhile."""
    np.add(part, 1, out=part)


@contextlib.contextmanager
def evicting(root: Path = ROOT) -> Iterator[Evictor]:
    """An evictor, whose threads and memory are given back at the end."""
    cpus = usable_cpus()
    caches = caches_of(cpus[0], root)
    share = max(_TIMES * caches.last // len(cpus), _TIMES * caches.private)
    with contextlib.ExitStack() as stack:
        pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in cpus]
        pinned = [pool.submit(os.sched_setaffinity, 0, {cpu}) for pool, cpu in zip(pools, cpus, strict=True)]
        for each in pinned:
            each.result()
        yield Evictor(pools, [np.zeros(share // 8, dtype=np.int64) for _ in cpus])


@dataclass(slots=True)
class Cold:
    """An inference each run of which finds cold caches.

    Attributes:
        now: the runner's clock.
        idle_ns: time spent between runs so far.
    """

    inference: Bound
    evictor: Evictor
    now: Callable[[], int]
    idle_ns: int = 0

    def bound(self) -> Bound:
        """The inference, ready to be repeated."""
        return Bound(self._step, self._sample, self.inference.clock, self.inference.outputs)

    def _step(self) -> object:
        self.evictor.evict()
        return self.inference.step()

    def _sample(self, count: int) -> Samples:
        begun = self.now()
        runs = []
        for _ in range(count):
            self.evictor.evict()
            runs.append(self.inference.sample(1))
        samples = np.concatenate(runs)
        self.idle_ns += self.now() - begun - int(samples.sum())
        return samples
