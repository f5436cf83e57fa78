"""What GPUs can do at most by their data sheets: dense, without structured sparsity, at boost clock."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bbx.errors import UsageError, did_you_mean
from bbx.types import Precision

_TERA, _GIGA = 10**12, 10**9


@dataclass(frozen=True, slots=True)
class GpuPeaks:
    """The two roofs of a GPU.

    Attributes:
        name: what the user types.
        product: what it is sold as.
        flops: operations a second by precision; a precision that the hardware has not is absent. FP16 is with
            FP16 accumulation where that is faster.
        tf32: operations a second on FP32 numbers of which the tensor cores read 19 bits; None where it has
            no such cores.
        bandwidth: of the device memory, bytes a second.
        source: where the numbers stand.
    """

    name: str
    product: str
    flops: Mapping[Precision, float]
    tf32: float | None
    bandwidth: float
    source: str


def _gpu(
    name: str,
    product: str,
    bandwidth: float,
    *,
    fp32: float,
    fp16: float,
    int8: float,
    source: str,
    tf32: float | None = None,
    bf16: float | None = None,
    fp8: float | None = None,
) -> GpuPeaks:
    """Peaks in tera-operations a second, bandwidth in GB/s."""
    tera: dict[Precision, float | None] = {"fp32": fp32, "fp16": fp16, "bf16": bf16, "int8": int8, "fp8": fp8}
    flops = {precision: value * _TERA for precision, value in tera.items() if value is not None}
    return GpuPeaks(name, product, flops, tf32 and tf32 * _TERA, bandwidth * _GIGA, source)


_A100 = "NVIDIA A100 data sheet"
_H100 = "NVIDIA H100 Tensor Core GPU data sheet (halved where it states sparsity)"
_ADA = "NVIDIA Ada GPU architecture white paper, appendix A"
_ORIN = "NVIDIA Jetson Orin series data sheets: the GPU's share, halved where they state sparsity"

_TABLE = (
    _gpu("t4", "Tesla T4", 320, fp32=8.1, fp16=65, int8=130, source="NVIDIA T4 data sheet"),
    _gpu(
        "a10", "A10", 600, fp32=31.2, tf32=62.5, fp16=125, bf16=125, int8=250, source="NVIDIA A10 data sheet"
    ),
    _gpu(
        "a100-sxm-40gb",
        "A100-SXM4-40GB",
        1555,
        fp32=19.5,
        tf32=156,
        fp16=312,
        bf16=312,
        int8=624,
        source=_A100,
    ),
    _gpu(
        "a100-pcie-80gb",
        "A100 80GB PCIe",
        1935,
        fp32=19.5,
        tf32=156,
        fp16=312,
        bf16=312,
        int8=624,
        source=_A100,
    ),
    _gpu(
        "a100-sxm-80gb",
        "A100-SXM4-80GB",
        2039,
        fp32=19.5,
        tf32=156,
        fp16=312,
        bf16=312,
        int8=624,
        source=_A100,
    ),
    _gpu(
        "l4",
        "L4",
        300,
        fp32=30.3,
        tf32=60,
        fp16=121,
        bf16=121,
        int8=242.5,
        fp8=242.5,
        source="NVIDIA L4 data sheet (halved where it states sparsity)",
    ),
    _gpu(
        "l40s",
        "L40S",
        864,
        fp32=91.6,
        tf32=183,
        fp16=362,
        bf16=362,
        int8=733,
        fp8=733,
        source="NVIDIA L40S data sheet",
    ),
    _gpu(
        "h100-pcie",
        "H100 PCIe",
        2000,
        fp32=51,
        tf32=378,
        fp16=756,
        bf16=756,
        int8=1513,
        fp8=1513,
        source=_H100,
    ),
    _gpu(
        "h100-sxm",
        "H100 80GB HBM3",
        3350,
        fp32=67,
        tf32=494.7,
        fp16=989.4,
        bf16=989.4,
        int8=1979,
        fp8=1979,
        source=_H100,
    ),
    _gpu(
        "h200",
        "H200",
        4800,
        fp32=67,
        tf32=494.7,
        fp16=989.4,
        bf16=989.4,
        int8=1979,
        fp8=1979,
        source="NVIDIA H200 Tensor Core GPU data sheet (halved where it states sparsity)",
    ),
    _gpu(
        "b200",
        "B200",
        8000,
        fp32=80,
        tf32=1100,
        fp16=2250,
        bf16=2250,
        int8=4500,
        fp8=4500,
        source="NVIDIA Blackwell architecture technical brief, HGX B200",
    ),
    _gpu(
        "rtx-3090",
        "GeForce RTX 3090",
        936,
        fp32=35.6,
        tf32=35.6,
        fp16=142,
        bf16=71,
        int8=284,
        source="NVIDIA Ampere GA102 GPU architecture white paper",
    ),
    _gpu(
        "rtx-4090",
        "GeForce RTX 4090",
        1008,
        fp32=82.6,
        tf32=82.6,
        fp16=330.3,
        bf16=165.2,
        int8=660.6,
        fp8=660.6,
        source=_ADA,
    ),
    _gpu(
        "rtx-5090",
        "GeForce RTX 5090",
        1792,
        fp32=104.8,
        tf32=104.8,
        fp16=419,
        bf16=209.5,
        int8=838,
        fp8=838,
        source="NVIDIA RTX Blackwell GPU architecture white paper",
    ),
    _gpu("orin-agx", "Jetson AGX Orin 64GB", 204.8, fp32=5.3, fp16=42.5, bf16=42.5, int8=85, source=_ORIN),
    _gpu("orin-nx", "Jetson Orin NX 16GB", 102.4, fp32=1.88, fp16=15, bf16=15, int8=30, source=_ORIN),
    _gpu("orin-nano", "Jetson Orin Nano 8GB", 68, fp32=1.28, fp16=10, bf16=10, int8=20, source=_ORIN),
    _gpu(
        "orin-nano-super",
        "Jetson Orin Nano 8GB Super",
        102,
        fp32=2.09,
        fp16=16.7,
        bf16=16.7,
        int8=33.4,
        source=_ORIN,
    ),
)

GPUS: dict[str, GpuPeaks] = {gpu.name: gpu for gpu in _TABLE}
"""By the name that the user types."""


def gpu_named(name: str) -> GpuPeaks:
    """The GPU that a user named: `h100-sxm`, `H100_SXM`, or a part that only one has.

    Raises:
        UsageError: none has it, or several have; names them.
    """
    asked = _plain(name)
    for gpu in _TABLE:
        if asked in (_plain(gpu.name), _plain(gpu.product)):
            return gpu
    close = [gpu for gpu in _TABLE if asked and asked in _plain(gpu.name)]
    if len(close) == 1:
        return close[0]
    if close:
        known = ", ".join(gpu.name for gpu in close)
        raise UsageError(f"{name!r} is more than one GPU.", hint=f"Type one of: {known}.")
    hint = did_you_mean(name, GPUS)
    raise UsageError(
        f"There is no GPU {name!r} in the table.", hint=f"{hint} All: {', '.join(GPUS)}.".lstrip()
    )


def gpu_of_driver(name: str) -> GpuPeaks | None:
    """The GPU that the driver calls so (`NVIDIA H100 80GB HBM3`); None for one that is not in the table."""
    plain = _plain(name.replace("NVIDIA", ""))
    exact = [gpu for gpu in _TABLE if plain == _plain(gpu.product)]
    within = [gpu for gpu in _TABLE if re.search(rf"\b{re.escape(gpu.product)}\b", name)]
    found = exact or sorted(within, key=lambda gpu: len(gpu.product), reverse=True)
    return found[0] if found else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
