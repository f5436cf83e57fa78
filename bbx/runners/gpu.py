"""Which NVIDIA GPUs this process may use, asked of the driver (NVML) and of nothing heavier."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import ModuleType

from bbx import lazy
from bbx.errors import UnavailableError

_DRIVER_HINT = "Install NVIDIA's driver for this GPU, then type: nvidia-smi"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the driver describes it.

    Attributes:
        name: of the product.
        capability: CUDA compute capability, such as (8, 6).
        memory_bytes: of the whole device.
        driver: version of the driver.
    """

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    driver: str


def gpus() -> list[Gpu]:
    """The GPUs of this machine; at least one.

    Raises:
        UnavailableError: there is no driver, no GPU, or `CUDA_VISIBLE_DEVICES` hides them all.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1"):
        raise UnavailableError(
            "CUDA_VISIBLE_DEVICES hides every GPU from this process.", hint="Type: unset CUDA_VISIBLE_DEVICES"
        )
    nvml = lazy.require("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise UnavailableError(f"There is no NVIDIA driver: {error}.", hint=_DRIVER_HINT) from error
    try:
        found = [_describe(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        raise UnavailableError(f"The NVIDIA driver does not answer: {error}.", hint=_DRIVER_HINT) from error
    finally:
        nvml.nvmlShutdown()
    if not found:
        raise UnavailableError("The NVIDIA driver sees no GPU.", hint=_DRIVER_HINT)
    return found


def _describe(nvml: ModuleType, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        name=str(nvml.nvmlDeviceGetName(handle)),
        capability=(int(major), int(minor)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        driver=str(nvml.nvmlSystemGetDriverVersion()),
    )
