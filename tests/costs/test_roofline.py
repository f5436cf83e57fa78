from __future__ import annotations

import pytest

from bbx.costs.gpus import GPUS, gpu_named, gpu_of_driver
from bbx.costs.roofline import Roofs
from bbx.errors import UsageError

MACHINE = Roofs(flops=100e12, bandwidth=1e12)


def test_the_ridge_is_where_both_roofs_meet() -> None:
    assert MACHINE.ridge == 100
    assert MACHINE.attainable(MACHINE.ridge) == 100e12


@pytest.mark.parametrize(
    ("flops", "nbytes", "bound", "seconds"),
    [
        (200 * 10**9, 10**9, "compute", 2e-3),
        (50 * 10**9, 10**9, "memory", 1e-3),
        (0, 10**6, "memory", 1e-6),
        (10**6, 0, "compute", 1e-8),
    ],
)
def test_work_takes_the_longer_of_both_times(flops: int, nbytes: int, bound: str, seconds: float) -> None:
    assert MACHINE.bound(flops, nbytes) == bound
    assert MACHINE.seconds(flops, nbytes) == pytest.approx(seconds)


def test_below_the_ridge_bandwidth_limits_the_rate() -> None:
    assert MACHINE.attainable(10) == pytest.approx(10e12)
    assert MACHINE.attainable(1000) == pytest.approx(100e12)


def test_every_gpu_has_the_roofs_of_a_gpu() -> None:
    for gpu in GPUS.values():
        assert gpu.source
        assert 60e9 <= gpu.bandwidth <= 8e12
        assert gpu.flops["fp32"] < gpu.flops["fp16"] <= gpu.flops["int8"]
        # Dense figures double from 16 bits to 8; a sparse one among them would break the ratio.
        assert gpu.flops["int8"] / gpu.flops["fp16"] == pytest.approx(2, rel=0.03)
        assert gpu.flops.get("fp8", gpu.flops["int8"]) == gpu.flops["int8"]


def test_the_modules_of_one_chip_differ_by_clock_and_cores_alone() -> None:
    """Every core of Orin does sixteen dense 8-bit operations where it does one in FP32."""
    orin = [gpu for name, gpu in GPUS.items() if name.startswith("orin")]
    assert len(orin) == 4
    for gpu in orin:
        assert gpu.flops["int8"] / gpu.flops["fp32"] == pytest.approx(16, rel=0.03), gpu.name
        assert gpu.flops["int8"] == pytest.approx(2 * gpu.flops["fp16"])


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("h100-sxm", "h100-sxm"),
        ("H100_SXM", "h100-sxm"),
        ("RTX 4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("T4", "t4"),
        ("GeForce RTX 5090", "rtx-5090"),
        ("orin-nano", "orin-nano"),
        ("agx", "orin-agx"),
    ],
)
def test_a_gpu_is_named_as_people_type_it(typed: str, name: str) -> None:
    assert gpu_named(typed).name == name


def test_a_name_that_several_gpus_have_lists_them() -> None:
    with pytest.raises(UsageError, match=r"more than one.*h100-pcie, h100-sxm"):
        gpu_named("h100")


def test_an_unknown_gpu_lists_what_is_known() -> None:
    with pytest.raises(UsageError, match=r"'h1000'.*h100-sxm"):
        gpu_named("h1000")
    with pytest.raises(UsageError, match="no GPU ''"):
        gpu_named("")


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA A10G", None),
        ("NVIDIA L40", None),
        ("NVIDIA Titan XL4", None),
    ],
)
def test_a_gpu_is_known_by_what_its_driver_calls_it(driver: str, name: str | None) -> None:
    found = gpu_of_driver(driver)
    assert (found and found.name) == name
