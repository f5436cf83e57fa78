from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bbx.benchmarks.environment import describe
from bbx.benchmarks.roof import (
    ABOVE_BOOST,
    HIGHEST_HZ,
    cpu_peak,
    fewest_operations,
    floor_of,
    gpu_peak,
    peak_of,
)
from bbx.costs.graph import graph_costs
from bbx.models.spec import ModelSpec
from bbx.types import Precision
from tests.benchmarks.graphs import write_graph

SKYLAKE = ("avx", "avx2", "fma", "avx512f")
SAPPHIRE = (*SKYLAKE, "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16")
FACTS = {"cpu": {"usable": [0, 1], "instructions": SKYLAKE}, "machine": "x86_64", "gpu": None}


@pytest.mark.parametrize(
    ("instructions", "machine", "precision", "a_cycle"),
    [
        (("avx", "avx2", "fma"), "x86_64", "fp32", 32),
        (SKYLAKE, "x86_64", "fp32", 64),
        (SKYLAKE, "x86_64", "int8", 256),
        (SAPPHIRE, "x86_64", "bf16", 1024),
        (SAPPHIRE, "x86_64", "int8", 2048),
        ((), "x86_64", "fp32", 16),
        (("asimd",), "aarch64", "fp32", 32),
        (("asimd", "sve", "i8mm"), "aarch64", "int8", 512),
    ],
)
def test_the_peak_of_a_cpu(
    instructions: tuple[str, ...], machine: str, precision: Precision, a_cycle: int
) -> None:
    assert cpu_peak(instructions, machine, 3, precision) == 3 * HIGHEST_HZ * a_cycle


def test_the_peak_of_an_architecture_that_nobody_knows_is_none() -> None:
    assert cpu_peak((), "riscv64", 4, "fp32") is None


def test_the_peak_of_a_gpu_is_above_its_data_sheet() -> None:
    assert gpu_peak("Tesla T4", "fp16") == pytest.approx(65e12 * ABOVE_BOOST)
    # FP32 may be computed in TF32, and what a GPU has no figure for counts as its fastest.
    assert gpu_peak("NVIDIA H100 PCIe", "fp32") == pytest.approx(378e12 * ABOVE_BOOST)
    assert gpu_peak("Tesla T4", "bf16") == pytest.approx(130e12 * ABOVE_BOOST)
    assert gpu_peak("NVIDIA Tomorrow 1", "fp16") is None


def test_a_device_is_named_with_its_peak() -> None:
    assert peak_of(FACTS, "cpu", "fp32") == (2 * HIGHEST_HZ * 64, "2 CPUs at 6.5 GHz")
    assert peak_of(FACTS | {"gpu": {"name": "NVIDIA L4"}}, "cuda", "int8") == (
        pytest.approx(242.5e12 * ABOVE_BOOST),
        "NVIDIA L4",
    )
    assert peak_of(FACTS | {"gpu": {"name": "NVIDIA Tomorrow 1"}}, "cuda", "int8") is None
    assert peak_of(FACTS, "cuda", "fp32") is None


def test_this_machine_computes_no_faster_than_its_peak() -> None:
    import numpy as np

    from bbx.runners.base import sample_host_clock

    facts = describe()
    left = right = np.ones((512, 512), dtype=np.float32)
    fastest = sample_host_clock(lambda: left @ right, 20).min() / 1e9
    found = peak_of(facts, "cpu", "fp32")
    assert found is not None
    assert 2 * 512**3 / fastest < found[0]


def request(**change: Any) -> dict[str, Any]:
    return {"precision": "fp32", "batch": 1, "spec": None, "artefact": None, "reference": None} | change


def test_the_floor_of_a_graph_grows_with_its_batch(tmp_path: Path) -> None:
    graph = str(write_graph(tmp_path / "net.onnx"))
    one = floor_of(request(artefact=graph, spec=ModelSpec("resnet18").to_request()), FACTS, "cpu")
    two = floor_of(request(artefact=graph, spec=ModelSpec("resnet18").to_request(), batch=2), FACTS, "cpu")
    assert one is not None
    assert two is not None
    assert two.flops == 2 * one.flops == 4 * (16 * 30 * 30 * 27 + 5 * 28 * 28 * 16 * 9)
    assert one.ns == pytest.approx(one.flops / 4 / one.peak * 1e9)
    assert two.ns == pytest.approx(2 * one.ns)


def test_a_graph_from_elsewhere_may_be_in_eight_bits(tmp_path: Path) -> None:
    graph = str(write_graph(tmp_path / "net.onnx"))
    foreign = floor_of(request(artefact=graph), FACTS, "cpu")
    assert foreign is not None
    assert foreign.peak == 2 * HIGHEST_HZ * 256


def test_convolutions_may_be_done_with_a_quarter_of_the_multiplications(tmp_path: Path) -> None:
    costs = graph_costs(write_graph(tmp_path / "net.onnx"), 1)
    assert fewest_operations(costs) == costs.flops / 4


def test_a_model_is_counted_where_there_is_no_graph() -> None:
    spec = ModelSpec("resnet18", image_size=64).to_request()
    found = floor_of(request(spec=spec), FACTS, "cpu")
    assert found is not None
    assert found.flops == pytest.approx(3.63e9 * (64 / 224) ** 2, rel=0.05)


@pytest.mark.parametrize(
    ("change", "device"),
    [
        ({"spec": ModelSpec("ssdlite320_mobilenet_v3_large").to_request()}, "cpu"),  # a detector
        ({}, "cpu"),  # a program without a graph
        ({"artefact": "net.engine"}, "cuda"),
    ],
)
def test_what_is_not_known_has_no_floor(change: dict[str, Any], device: str) -> None:
    assert floor_of(request(**change), FACTS, device) is None


def test_a_graph_whose_shapes_cannot_be_told_has_no_floor(tmp_path: Path) -> None:
    import onnx

    path = write_graph(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, path)
    assert floor_of(request(artefact=str(path)), FACTS, "cpu") is None
