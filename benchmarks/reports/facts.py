"""What is known of a machine, in words."""

from __future__ import annotations

from typing import Any

from bbx.benchmarks.units import mebibytes


def environment_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What is known of a machine, as name and text."""
    cpu, gpu = facts["cpu"], facts["gpu"]
    quota = f", quota {cpu['quota']:g}" if cpu["quota"] else ""
    virtual = ", in a virtual machine" if cpu["hypervisor"] else ""
    return [
        ("CPU", f"{cpu['model'] or 'unknown'}, {len(cpu['usable'])} of {cpu['cores']} cores{quota}{virtual}"),
        ("instructions", ", ".join(cpu["instructions"]) or "cannot be read"),
        ("governor", cpu["governor"] or "cannot be read"),
        ("GPU", _gpu(gpu) if gpu else "none"),
        ("memory", mebibytes(facts["memory_bytes"]) if facts["memory_bytes"] else "unknown"),
        ("system", f"{facts['system']} {facts['kernel']} {facts['machine']}, Python {facts['python']}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())),
        ("variables", ", ".join(f"{name}={value}" for name, value in facts["variables"].items()) or "none"),
        ("could not be read", ", ".join(facts["unread"]) or "nothing"),
        ("fingerprint", facts["fingerprint"][:16]),
    ]


def _gpu(gpu: dict[str, Any]) -> str:
    """The GPU and its state when the run began; what could not be read is left out here, and listed apart."""
    known = [
        f"{text}{gpu[name]:g}{unit}" if isinstance(gpu.get(name), int | float) else ""
        for name, text, unit in (
            ("sm_clock_mhz", "at ", " MHz"),
            ("max_sm_clock_mhz", "at most ", " MHz"),
            ("power_limit_w", "limit ", " W"),
            ("temperature_c", "", " °C"),
            ("other_processes", "other processes: ", ""),
        )
    ]
    held_back = f"held back: {', '.join(gpu['throttled'])}" if gpu["throttled"] else ""
    parts = [gpu["name"] or "unknown", f"driver {gpu['driver'] or 'unknown'}", *known, held_back]
    return ", ".join(filter(None, parts))
