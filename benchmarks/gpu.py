"""The GPU as NVML sees it: facts for the report, and a watch on it during a measurement.

No function here raises for a machine without a GPU or without NVML; what cannot be read is absent.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

THROTTLE_BITS: dict[int, str] = {
    0x04: "power limit",
    0x08: "hardware slowdown",
    0x20: "software thermal limit",
    0x40: "hardware thermal limit",
    0x80: "power brake",
}
"""Bits of NVML's clocks event reasons (nvml.h) that mean slower than asked; idle (0x01), application
clocks (0x02), sync boost (0x10) and display clocks (0x100) do not."""


@dataclass(slots=True)
class GpuWatch:
    """What was seen of the GPU's clocks during a measurement.

    Attributes:
        throttled: why they were held back, in words, in the order seen.
        lowest_mhz: lowest clock of the multiprocessors seen; None without NVML.
    """

    throttled: list[str] = field(default_factory=list)
    lowest_mhz: int | None = None
    _nvml: Any = None
    _handle: Any = None

    def look(self) -> None:
        """Read the GPU now; called between chunks of samples, never inside the clock."""
        if self._nvml is None:
            return
        with contextlib.suppress(self._nvml.NVMLError):
            reasons = self._nvml.nvmlDeviceGetCurrentClocksEventReasons(self._handle)
            self.throttled += [text for text in throttle_reasons(reasons) if text not in self.throttled]
        with contextlib.suppress(self._nvml.NVMLError):
            mhz = self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM)
            self.lowest_mhz = mhz if self.lowest_mhz is None else min(self.lowest_mhz, mhz)


def throttle_reasons(bits: int) -> list[str]:
    """The reasons in an NVML bit mask that mean slower than asked."""
    return [text for bit, text in THROTTLE_BITS.items() if bits & bit]


@contextlib.contextmanager
def watch_gpu() -> Iterator[GpuWatch]:
    """A watch on the first visible GPU; one that sees nothing where there is none."""
    with _nvml_device() as found:
        if found is None:
            yield GpuWatch()
            return
        nvml, handle = found
        yield GpuWatch(_nvml=nvml, _handle=handle)


@contextlib.contextmanager
def _nvml_device() -> Iterator[tuple[Any, Any] | None]:
    """NVML and the first visible GPU's handle, or None; NVML is shut down at the end."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        yield None
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        yield None
        return
    try:
        yield _first_visible(nvml)
    finally:
        nvml.nvmlShutdown()


def _first_visible(nvml: Any) -> tuple[Any, Any] | None:
    """CUDA's device 0: the first entry of CUDA_VISIBLE_DEVICES, an index or a UUID (else none)."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    try:
        if first.startswith(("GPU-", "MIG-")):
            return nvml, nvml.nvmlDeviceGetHandleByUUID(first)
        return (nvml, nvml.nvmlDeviceGetHandleByIndex(int(first))) if first.isdigit() else None
    except nvml.NVMLError:
        return None


def gpu_facts() -> dict[str, Any] | None:
    """Name, driver, clocks, power, temperature and company of the first visible GPU.

    Returns:
        None where there is no GPU; a value that could not be read is None.
    """
    with _nvml_device() as found:
        if found is None:
            return None
        nvml, handle = found

        def read(call: Callable[[], Any]) -> Any:
            try:
                return call()
            except nvml.NVMLError:
                return None

        return {
            "name": read(lambda: nvml.nvmlDeviceGetName(handle)),
            "driver": read(nvml.nvmlSystemGetDriverVersion),
            "compute_capability": read(lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle)),
            "memory_bytes": read(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total),
            "sm_clock_mhz": read(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            "max_sm_clock_mhz": read(lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
            "power_limit_w": read(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
            "temperature_c": read(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            "throttled": throttle_reasons(
                read(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)) or 0
            ),
            "other_processes": read(lambda: len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))),
        }
