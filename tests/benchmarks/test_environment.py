from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bbx.benchmarks import gpu
from bbx.benchmarks.environment import describe, essential_unread, fingerprint


class NVMLError(Exception):
    pass


def fake_nvml(**changes: Any) -> SimpleNamespace:
    """NVML with one GPU that is held back by its power limit and does not tell its temperature."""

    def refuse(*_: Any) -> int:
        raise NVMLError

    calls: dict[str, Any] = {
        "NVMLError": NVMLError,
        "NVML_CLOCK_SM": 1,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: f"gpu{index}",
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetName": lambda handle: f"Fake {handle}",
        "nvmlSystemGetDriverVersion": lambda: "580.1",
        "nvmlDeviceGetCudaComputeCapability": lambda _: (9, 0),
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=80 << 30, used=1 << 30),
        "nvmlDeviceGetClockInfo": lambda *_: 1500,
        "nvmlDeviceGetMaxClockInfo": lambda *_: 1980,
        "nvmlDeviceGetEnforcedPowerLimit": lambda _: 700_000,
        "nvmlDeviceGetTemperature": refuse,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda _: 0x04 | 0x01,
        "nvmlDeviceGetComputeRunningProcesses": lambda _: [],
    }
    return SimpleNamespace(**{**calls, **changes})


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.importlib, "import_module", lambda _: fake_nvml())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NVMLError

    monkeypatch.setattr(gpu.importlib, "import_module", lambda _: fake_nvml(nvmlInit=refuse))


def test_this_machine_can_be_described_as_json() -> None:
    facts = describe()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["cpu"]["cores"] >= len(facts["cpu"]["usable"]) > 0
    assert facts["libraries"]["torch"]
    assert facts["memory_bytes"] > 1 << 28


def test_what_cannot_be_read_is_listed(tmp_path: Path, no_gpu: None) -> None:
    facts = describe(tmp_path)
    assert {"cpu.model", "memory_bytes", "load_average"} <= set(facts["unread"])
    assert essential_unread(facts, device="cpu") == ["cpu.model"]


def test_a_row_on_a_gpu_needs_to_know_it(no_gpu: None) -> None:
    facts = describe()
    assert facts["gpu"] is None
    assert essential_unread(facts, device="cuda") == ["gpu"]
    assert essential_unread(facts, device="cpu") == []


def test_a_gpu_is_described_and_what_it_does_not_tell_is_listed(one_gpu: None) -> None:
    facts = describe()
    assert facts["gpu"]["name"] == "Fake gpu0"
    assert facts["gpu"]["power_limit_w"] == 700
    assert facts["gpu"]["throttled"] == ["power limit"]
    assert "gpu.temperature_c" in facts["unread"]
    assert essential_unread(facts, device="cuda") == []


@pytest.mark.parametrize(
    ("visible", "name"), [("3,0", "Fake gpu3"), ("GPU-abc", "Fake GPU-abc"), ("", None), ("-1", None)]
)
def test_the_first_visible_gpu_is_the_one(
    one_gpu: None, monkeypatch: pytest.MonkeyPatch, visible: str, name: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    facts = gpu.gpu_facts()
    assert (facts["name"] if facts else None) == name


def test_the_watch_keeps_what_held_the_clocks_back_and_the_lowest(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons, clocks = iter([0x01, 0x04, 0x44]), iter([1900, 1200, 1500])
    nvml = fake_nvml(
        nvmlDeviceGetCurrentClocksEventReasons=lambda _: next(reasons),
        nvmlDeviceGetClockInfo=lambda *_: next(clocks),
    )
    monkeypatch.setattr(gpu.importlib, "import_module", lambda _: nvml)
    with gpu.watch_gpu() as watch:
        for _ in range(3):
            watch.look()
    assert watch.throttled == ["power limit", "hardware thermal limit"]
    assert watch.lowest_mhz == 1200


def test_the_watch_sees_nothing_without_a_gpu(no_gpu: None) -> None:
    with gpu.watch_gpu() as watch:
        watch.look()
    assert (watch.throttled, watch.lowest_mhz) == ([], None)


def test_the_fingerprint_ignores_the_weather_and_nothing_else(one_gpu: None) -> None:
    facts = describe()
    later = copy.deepcopy(facts)
    later["load_average"] = [9.0, 9.0, 9.0]
    later["cpu"]["mhz"] = 1.0
    later["gpu"]["temperature_c"] = 99
    assert fingerprint(later) == fingerprint(facts)
    later["libraries"]["torch"] = "0.1"
    assert fingerprint(later) != fingerprint(facts)
    moved = copy.deepcopy(facts)
    moved["gpu"]["driver"] = "1"
    assert fingerprint(moved) != fingerprint(facts)
