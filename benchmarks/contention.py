"""What else the machine did during a measurement, read from Linux's own counters.

Two readings of the counters give a `Load`. What cannot be read is None, and never taken for zero.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Counters:
    """One reading; everything but `khz` only grows.

    Attributes:
        ns: `time.monotonic_ns`.
        own_s: CPU time of this process, all threads.
        involuntary: times the kernel took a CPU away from a thread of this process.
        busy_s: CPU time that anyone spent on the CPUs this process may use.
        steal_s: time that a hypervisor kept those CPUs for other machines.
        throttled_s: time that this process's control group was held back by its quota.
        thermal_events: times that a core slowed down because it was hot.
        khz: mean clock of those CPUs now.
    """

    ns: int
    own_s: float
    involuntary: int
    busy_s: float | None
    steal_s: float | None
    throttled_s: float | None
    thermal_events: int | None
    khz: float | None


@dataclass(frozen=True, slots=True)
class Load:
    """What happened between two readings.

    Attributes:
        seconds: wall time.
        cores: CPUs that this process may use.
        own_cores: CPUs that it kept busy, on average.
        other_cores: CPUs that everything else kept busy.
        steal_share: part of the CPUs' time that a hypervisor took.
        throttled_share: part of the wall time that the control group was held back.
        involuntary_per_s: context switches that this process did not ask for.
        thermal_events: times that a core slowed down because it was hot.
        clock_ratio: clock at the end over clock at the beginning.
    """

    seconds: float
    cores: int
    own_cores: float
    other_cores: float | None
    steal_share: float | None
    throttled_share: float | None
    involuntary_per_s: float
    thermal_events: int | None
    clock_ratio: float | None


def usable_cpus() -> list[int]:
    """The CPUs that this process may run on, in order."""
    return sorted(os.sched_getaffinity(0))


def read_counters(root: Path = ROOT) -> Counters:
    """Read every counter now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    busy_s, steal_s = _cpu_times(root)
    return Counters(
        ns=time.monotonic_ns(),
        own_s=usage.ru_utime + usage.ru_stime,
        involuntary=usage.ru_nivcsw,
        busy_s=busy_s,
        steal_s=steal_s,
        throttled_s=throttled_seconds(root),
        thermal_events=_thermal_events(root),
        khz=_clock_khz(root),
    )


def load_between(before: Counters, after: Counters, *, cores: int) -> Load:
    """What happened between two readings, on `cores` CPUs."""
    seconds = max((after.ns - before.ns) / 1e9, 1e-9)
    own = after.own_s - before.own_s
    busy = _growth(before.busy_s, after.busy_s)
    steal = _growth(before.steal_s, after.steal_s)
    throttled = _growth(before.throttled_s, after.throttled_s)
    hot = _growth(before.thermal_events, after.thermal_events)
    return Load(
        seconds=seconds,
        cores=cores,
        own_cores=own / seconds,
        other_cores=None if busy is None else max(0.0, busy - own) / seconds,
        steal_share=None if steal is None else steal / (seconds * cores),
        throttled_share=None if throttled is None else throttled / seconds,
        involuntary_per_s=(after.involuntary - before.involuntary) / seconds,
        thermal_events=None if hot is None else int(hot),
        clock_ratio=after.khz / before.khz if before.khz and after.khz else None,
    )


def _growth(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def read_text(path: Path) -> str | None:
    """A small file of `/proc` or `/sys`; None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _cpu_times(root: Path) -> tuple[float | None, float | None]:
    """Busy and stolen seconds of the usable CPUs (`/proc/stat`, man 5 proc)."""
    text = read_text(root / "proc/stat")
    if text is None:
        return None, None
    wanted = {f"cpu{index}" for index in usable_cpus()}
    busy = steal = found = 0
    for line in text.splitlines():
        name, *fields = line.split()
        if name in wanted and len(fields) >= 8:
            user, nice, system, _idle, _iowait, irq, softirq, stolen = map(int, fields[:8])
            busy += user + nice + system + irq + softirq
            steal += stolen
            found += 1
    if not found:
        return None, None
    return busy / _TICKS_PER_S, steal / _TICKS_PER_S


def cgroup_folders(root: Path = ROOT) -> list[Path]:
    """Folders of the control group that limits this process's CPU time: version 2, then version 1.

    Inside a container the path that the kernel names is often mounted as the root, so both are tried.
    """
    base = root / "sys/fs/cgroup"
    folders: list[Path] = []
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            folders += [base / path.lstrip("/"), base]
        elif "cpu" in controllers.split(","):
            folders += [base / "cpu" / path.lstrip("/"), base / "cpu"]
    return list(dict.fromkeys(folders))


def throttled_seconds(root: Path = ROOT) -> float | None:
    """How long the control group has been held back by its quota in all."""
    for folder in cgroup_folders(root):
        for line in (read_text(folder / "cpu.stat") or "").splitlines():
            match line.split():
                case ["throttled_usec", value]:
                    return int(value) / 1e6
                case ["throttled_time", value]:
                    return int(value) / 1e9
    return None


def cgroup_quota(root: Path = ROOT) -> float | None:
    """CPUs that the control group may use on average; None where there is no limit."""
    for folder in cgroup_folders(root):
        match (read_text(folder / "cpu.max") or "").split():
            case [quota, period] if quota != "max":
                return int(quota) / int(period)
        quota_us = read_text(folder / "cpu.cfs_quota_us")
        period_us = read_text(folder / "cpu.cfs_period_us")
        if quota_us and period_us and int(quota_us) > 0:
            return int(quota_us) / int(period_us)
    return None


def _thermal_events(root: Path) -> int | None:
    pattern = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"
    counts = [read_text(path) for path in root.glob(pattern)]
    readable = [int(count) for count in counts if count]
    return sum(readable) if readable else None


def _clock_khz(root: Path) -> float | None:
    folder = root / "sys/devices/system/cpu"
    texts = [read_text(folder / f"cpu{index}/cpufreq/scaling_cur_freq") for index in usable_cpus()]
    readable = [int(text) for text in texts if text]
    return sum(readable) / len(readable) if readable else None
