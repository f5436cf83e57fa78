"""The machine a measurement was taken on: what can be read, and a list of what could not.

`fingerprint` covers what makes two machines or two set-ups different, not what changes from minute to
minute (load, clocks, temperature).
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

from bbx.artifact import fingerprint_of, tool_versions
from bbx.benchmarks.contention import ROOT, cgroup_quota, read_text, usable_cpus
from bbx.benchmarks.gpu import gpu_facts

LIBRARIES = (
    *("torch", "torchvision", "timm", "onnx", "onnxruntime", "openvino"),
    *("tensorrt", "tensorrt_rtx", "numpy"),
)

_FLAGS_X86 = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
)
_FLAGS_AMX = ("amx_tile", "amx_int8", "amx_bf16")
_FLAGS_ARM = ("asimd", "asimddp", "bf16", "i8mm", "sve")
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OMP_PROC_BIND",
    "KMP_AFFINITY",
    "ORT_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE",
)


def describe(root: Path = ROOT) -> dict[str, Any]:
    """The environment as the report shows it.

    Returns:
        Plain JSON. A fact that could not be read is None and its name stands in `unread`; a GPU that is
        not there is None and does not.
    """
    facts = {
        "cpu": _cpu(root),
        "memory_bytes": _memory(root),
        "load_average": _load_average(root),
        "kernel": platform.release() or None,
        "system": platform.system() or None,
        "machine": platform.machine() or None,
        "python": platform.python_version(),
        "libraries": tool_versions(*LIBRARIES),
        "variables": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
        "gpu": gpu_facts(),
    }
    return facts | {"unread": _unread(facts), "fingerprint": fingerprint(facts)}


def fingerprint(facts: dict[str, Any]) -> str:
    """SHA-256 over everything in `describe` that does not change from minute to minute."""
    return fingerprint_of(lasting(facts))


def lasting(facts: dict[str, Any]) -> dict[str, Any]:
    """What of `describe` makes two machines or two set-ups different."""
    gpu = facts["gpu"] or {}
    return {
        "cpu": {name: value for name, value in facts["cpu"].items() if name != "mhz"},
        "gpu": {name: gpu.get(name) for name in ("name", "driver", "memory_bytes", "power_limit_w")},
        **{
            name: facts[name]
            for name in ("memory_bytes", "kernel", "system", "machine", "python", "libraries", "variables")
        },
    }


def _cpu(root: Path) -> dict[str, Any]:
    text = read_text(root / "proc/cpuinfo") or ""
    first = dict(_fields(text.split("\n\n", maxsplit=1)[0]))
    flags = set(first.get("flags", first.get("Features", "")).split())
    usable = usable_cpus()
    mhz = first.get("cpu MHz")
    return {
        "model": first.get("model name"),
        "cores": os.cpu_count(),
        "usable": usable,
        "quota": cgroup_quota(root),
        "instructions": [name for name in (*_FLAGS_X86, *_FLAGS_AMX, *_FLAGS_ARM) if name in flags],
        "governor": read_text(root / f"sys/devices/system/cpu/cpu{usable[0]}/cpufreq/scaling_governor"),
        "mhz": float(mhz) if mhz else None,
        "hypervisor": "hypervisor" in flags if flags else None,
    }


def _fields(text: str) -> list[tuple[str, str]]:
    pairs = (line.partition(":") for line in text.splitlines())
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _memory(root: Path) -> int | None:
    total = dict(_fields(read_text(root / "proc/meminfo") or "")).get("MemTotal")
    return int(total.split()[0]) * 1024 if total else None


def _load_average(root: Path) -> list[float] | None:
    text = read_text(root / "proc/loadavg")
    return [float(value) for value in text.split()[:3]] if text else None


def _unread(facts: dict[str, Any]) -> list[str]:
    """Names of the facts that could not be read, except those that many machines do not have."""
    missing = [name for name in ("memory_bytes", "load_average", "kernel") if facts[name] is None]
    missing += [f"cpu.{name}" for name in ("model", "governor", "mhz") if facts["cpu"][name] is None]
    if facts["gpu"]:
        missing += [f"gpu.{name}" for name, value in facts["gpu"].items() if value is None]
    return missing


def essential_unread(facts: dict[str, Any], *, device: str) -> list[str]:
    """Facts without which a number cannot be told from another machine's.

    Args:
        device: `cpu` or `cuda`, where the row ran.
    """
    needed = {"cpu.model", "kernel"} | ({"gpu.name", "gpu.driver"} if device == "cuda" else set())
    missing = sorted(needed & set(facts["unread"]))
    if device == "cuda" and facts["gpu"] is None:
        missing.append("gpu")
    return missing


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
