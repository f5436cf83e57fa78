"""The least time in which this machine could do the arithmetic of a row: a run that is faster did not do it.

An upper bound of the machine against a lower bound of the work, so that no honest run comes below it. A CPU
is taken for as fast as any with its instructions: every usable thread a core of its own, at a clock that no
processor reaches, with both its multiply-add units busy in every cycle. What Linux calls the highest clock is
not used: some drivers leave the turbo out of it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbx.costs.gpus import gpu_of_driver
from bbx.errors import BbxError
from bbx.models.registry import check_options, task_of
from bbx.models.spec import ModelSpec
from bbx.types import PRECISIONS, Precision, TensorSpec

if TYPE_CHECKING:
    from bbx.costs.layers import Costs

HIGHEST_HZ = 6.5e9
"""Above the highest turbo clock of any processor on sale (6.2 GHz, Intel Core i9-14900KS)."""

ABOVE_BOOST = 1.2
"""GPUs are clocked above the boost clock of their data sheet where power and temperature let them."""

FASTER_CONVOLUTION = 4
"""Winograd's F(4×4, 3×3) does with a quarter of the multiplications (Lavin and Gray, 2016)."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The least time of one run.

    Attributes:
        ns: nanoseconds.
        flops: floating-point operations of one run, convolutions by their definition.
        peak: operations a second that the machine does at most.
        machine: what was taken for it, in words.
    """

    ns: float
    flops: int
    peak: float
    machine: str


def cpu_peak(instructions: Collection[str], machine: str, cores: int, precision: Precision) -> float | None:
    """Operations a second that a CPU does at most.

    Args:
        instructions: the instruction sets it has, as `/proc/cpuinfo` calls them.
        machine: architecture, as `platform.machine` calls it.
        cores: threads that it runs at once.

    Returns:
        None for an architecture that is not known here.
    """
    if machine in ("x86_64", "AMD64"):
        cycle = _x86(instructions, precision)
    elif machine in ("aarch64", "arm64"):
        cycle = _arm(instructions, precision)
    else:
        return None
    return cores * HIGHEST_HZ * cycle


def _x86(instructions: Collection[str], precision: Precision) -> int:
    """Operations of one core in one cycle: two units, each a multiply-add in every lane."""
    has = set(instructions)
    lanes = 16 if "avx512f" in has else 8 if "avx" in has else 4
    floats = 2 * 2 * lanes
    match precision:
        case "int8" | "fp8":  # VNNI sums four products in the place of one
            return 2048 if "amx_int8" in has else 4 * floats
        case "bf16":
            return 1024 if "amx_bf16" in has else 2 * floats
        case "fp16":
            return 2 * floats
        case _:
            return floats


def _arm(instructions: Collection[str], precision: Precision) -> int:
    """Four units of 128 bits, or two of 512 with SVE; matrix instructions do eight times as much on bytes."""
    floats = 2 * 2 * 16 if "sve" in instructions else 4 * 2 * 4
    return floats * {"fp32": 1, "fp16": 2, "bf16": 4, "int8": 8, "fp8": 8}[precision]


def gpu_peak(name: str, precision: Precision) -> float | None:
    """Operations a second that a GPU does at most, by what its driver calls it; None where nobody knows."""
    gpu = gpu_of_driver(name)
    if gpu is None:
        return None
    peaks = [gpu.flops.get(precision) or max(gpu.flops.values())]
    if precision == "fp32" and gpu.tf32:
        peaks.append(gpu.tf32)  # which a library may use for FP32 without being asked
    return max(peaks) * ABOVE_BOOST


def peak_of(facts: dict[str, Any], device: str, precision: Precision) -> tuple[float, str] | None:
    """What a device of this machine does at most, and what it was taken for.

    Args:
        facts: of the environment; see `environment.describe`.
        device: `cpu` or `cuda`.
    """
    if device == "cuda":
        name = (facts["gpu"] or {}).get("name")
        peak = gpu_peak(name, precision) if name else None
        return None if peak is None else (peak, str(name))
    cpu = facts["cpu"]
    cores = len(cpu["usable"])
    peak = cpu_peak(cpu["instructions"], facts["machine"], cores, precision)
    return None if peak is None else (peak, f"{cores} CPUs at {HIGHEST_HZ / 1e9:.1f} GHz")


def fewest_operations(costs: Costs) -> float:
    """Operations that an implementation must do, by the fastest algorithms that are in use."""
    return sum(
        layer.flops / FASTER_CONVOLUTION if "Conv" in layer.type else layer.flops for layer in costs.layers
    )


def floor_of(request: dict[str, Any], facts: dict[str, Any], device: str) -> Floor | None:
    """The least time of one run of a row; None where the work or the machine is not known.

    Args:
        request: of the row; see `suite`.
        facts: of the environment; see `environment.describe`.
        device: that the row ran on.
    """
    precision: Precision = request["precision"]
    # A graph from elsewhere may be in eight bits without saying so.
    possible = PRECISIONS if request["spec"] is None else (precision,)
    peaks = [found for each in possible if (found := peak_of(facts, device, each)) is not None]
    try:
        costs = _costs(request) if peaks else None
    except BbxError:
        return None  # a graph whose shapes cannot be told; that it runs is known by now
    if costs is None or not costs.flops:
        return None
    # Operators that are not counted and shapes that are not known only make it less.
    peak, machine = max(peaks)
    return Floor(fewest_operations(costs) / peak * 1e9, costs.flops, peak, machine)


def _costs(request: dict[str, Any]) -> Costs | None:
    """Of the graph that the row runs or is compared with, or of the module; never more than the row's own."""
    graphs = [
        Path(name)
        for name in (request["artefact"], request["reference"])
        if name is not None and name.endswith(".onnx")
    ]
    if graphs:
        from bbx.costs.graph import graph_costs

        return graph_costs(graphs[-1], request["batch"], thorough=False)
    if request["spec"] is None:
        return None
    spec = ModelSpec.from_request(request["spec"])
    if task_of(check_options(spec)) == "detection":
        return None  # which the forms of one network do with different operators
    from bbx.costs.module import module_costs  # torch
    from bbx.models.outline import outline

    model = outline(spec)
    inputs = [TensorSpec(given.name, given.dtype, given.concrete(request["batch"])) for given in model.inputs]
    return module_costs(model.module, inputs, [given.name for given in model.outputs])
