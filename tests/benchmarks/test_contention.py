from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from bbx.benchmarks import contention
from bbx.benchmarks.contention import Counters

BEFORE = Counters(
    ns=0, own_s=1.0, involuntary=10, busy_s=5.0, steal_s=0.1, throttled_s=0.5, thermal_events=2, khz=3e6
)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_two_readings_give_what_happened_between_them() -> None:
    after = Counters(
        ns=2_000_000_000,
        own_s=4.0,
        involuntary=110,
        busy_s=9.0,
        steal_s=0.2,
        throttled_s=0.9,
        thermal_events=5,
        khz=2.4e6,
    )
    load = contention.load_between(BEFORE, after, cores=4)
    assert (load.seconds, load.own_cores, load.involuntary_per_s, load.thermal_events) == (2.0, 1.5, 50.0, 3)
    assert load.other_cores == pytest.approx(0.5)
    assert load.steal_share == pytest.approx(0.0125)
    assert load.throttled_share == pytest.approx(0.2)
    assert load.clock_ratio == pytest.approx(0.8)


def test_what_cannot_be_read_stays_unknown() -> None:
    blind = replace(BEFORE, busy_s=None, steal_s=None, throttled_s=None, thermal_events=None, khz=None)
    load = contention.load_between(blind, replace(BEFORE, ns=10**9), cores=1)
    unknown = (
        load.other_cores,
        load.steal_share,
        load.throttled_share,
        load.thermal_events,
        load.clock_ratio,
    )
    assert unknown == (None, None, None, None, None)


def test_own_work_is_told_from_the_work_of_others() -> None:
    before = contention.read_counters()
    end = time.perf_counter() + 0.6
    while time.perf_counter() < end:
        pass
    load = contention.load_between(before, contention.read_counters(), cores=len(contention.usable_cpus()))
    assert 0.1 < load.own_cores <= 1.1
    assert load.other_cores is not None
    assert load.own_cores + load.other_cores <= load.cores * 1.1


def test_counters_are_read_from_the_kernels_files(tmp_path: Path) -> None:
    cpus = contention.usable_cpus()
    first = "sys/devices/system/cpu/cpu0"
    lines = [f"cpu{index} 100 10 50 900 5 20 20 30 0 0" for index in cpus]
    root = write(
        tmp_path,
        {
            "proc/stat": "\n".join(["cpu 9 9 9 9 9 9 9 9", *lines, "cpu9999 1 1 1 1 1 1 1 1", "intr 5"]),
            "proc/self/cgroup": "0::/box\n",
            "sys/fs/cgroup/box/cpu.stat": "usage_usec 7\nthrottled_usec 2500000\n",
            "sys/fs/cgroup/box/cpu.max": "150000 100000",
            f"{first}/thermal_throttle/core_throttle_count": "3\n",
            f"sys/devices/system/cpu/cpu{cpus[0]}/cpufreq/scaling_cur_freq": "2400000\n",
        },
    )
    found = contention.read_counters(root)
    assert found.busy_s == pytest.approx(2.0 * len(cpus))
    assert found.steal_s == pytest.approx(0.3 * len(cpus))
    assert (found.throttled_s, found.thermal_events, found.khz) == (2.5, 3, 2_400_000)
    assert contention.cgroup_quota(root) == 1.5


def test_version_1_control_groups_are_understood(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n0::/\n",
            "sys/fs/cgroup/cpu/cpu.stat": "nr_throttled 4\nthrottled_time 1500000000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )
    assert contention.throttled_seconds(root) == 1.5
    assert contention.cgroup_quota(root) == 0.5


@pytest.mark.parametrize("limit", ["max 100000", ""])
def test_no_quota_is_none(tmp_path: Path, limit: str) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": limit})
    assert contention.cgroup_quota(root) is None


def test_a_machine_that_shows_nothing_reads_as_unknown(tmp_path: Path) -> None:
    found = contention.read_counters(tmp_path)
    assert (found.busy_s, found.steal_s, found.throttled_s) == (None, None, None)
    assert (found.thermal_events, found.khz) == (None, None)
