"""Every CPU runtime on the same network: same answers, same manners."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from bbx.errors import BbxError, UsageError
from bbx.runners.base import Runner
from bbx.runners.eager import EagerRunner
from bbx.runners.openvino import OpenvinoRunner
from bbx.runners.ort import OrtRunner
from bbx.runners.torchscript import Pt2Runner, TorchScriptRunner

NAMES = ("eager", "torchscript", "pt2", "ort-cpu", "openvino")
Make = Callable[[str], Runner]


@pytest.fixture
def make(nets: ModuleType, files: dict[str, Path]) -> Make:
    def runner(name: str, threads: int | None = None) -> Runner:
        specs = nets.INPUTS, nets.OUTPUTS
        if name == "eager":
            return EagerRunner(nets.net(), *specs, threads=threads)
        if name == "torchscript":
            return TorchScriptRunner(files["torchscript"], *specs, trust=True, threads=threads)
        if name == "pt2":
            return Pt2Runner(files["pt2"], *specs, trust=True, threads=threads)
        if name == "openvino":
            return OpenvinoRunner(files["onnx"], threads=threads)
        return OrtRunner(files["onnx"], threads=threads)

    return runner


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_module(name: str, batch: int, make: Make, nets: ModuleType) -> None:
    given = nets.feeds(batch)
    with make(name) as runner:
        answers = runner.infer(given)
        assert [spec.name for spec in runner.outputs] == list(answers)
    assert answers["logits"].shape == (batch, 10)
    assert nets.relative(answers["logits"], nets.reference(given)) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_describes_its_inputs(name: str, make: Make, nets: ModuleType) -> None:
    with make(name) as runner:
        assert runner.name == name
        assert runner.device == "cpu"
        assert runner.inputs == nets.INPUTS
        assert runner.device_bytes() is None


@pytest.mark.parametrize("name", NAMES)
def test_bound_inference_samples_and_keeps_its_feeds(name: str, make: Make, nets: ModuleType) -> None:
    given = nets.feeds(2)
    wanted = nets.reference(given)
    with make(name) as runner:
        bound = runner.bind(given)
        given["images"][:] = 0
        runner.infer(nets.feeds(1, seed=7))
        samples = bound.sample(5)
        first, second = bound.outputs(), bound.outputs()
        bound.step()
        third = bound.outputs()
    assert samples.dtype == np.int64
    assert samples.shape == (5,)
    assert (samples > 0).all()
    assert bound.clock == "perf_counter_ns"
    for answers in (first, second, third):
        assert nets.relative(answers["logits"], wanted) < 1e-4
    second["logits"][:] = 0
    assert first["logits"].any()
    assert third["logits"].any()


@pytest.mark.parametrize("name", NAMES)
def test_two_bound_inferences_do_not_mix(name: str, make: Make, nets: ModuleType) -> None:
    one, other = nets.feeds(1, seed=1), nets.feeds(3, seed=2)
    with make(name) as runner:
        first, second = runner.bind(one), runner.bind(other)
        second.step()
        first.step()
        assert nets.relative(first.outputs()["logits"], nets.reference(one)) < 1e-4
        assert nets.relative(second.outputs()["logits"], nets.reference(other)) < 1e-4


BAD_FEEDS = {
    "dtype": ({"images": np.zeros((1, 3, 32, 32), np.float64)}, "float64"),
    "rank": ({"images": np.zeros((3, 32, 32), np.float32)}, r"\[3, 32, 32\]"),
    "shape": ({"images": np.zeros((1, 3, 32, 31), np.float32)}, r"\[1, 3, 32, 31\]"),
    "unknown": ({"images": np.zeros((1, 3, 32, 32), np.float32), "mask": np.zeros(1)}, "mask"),
    "missing": ({}, "images"),
}


@pytest.mark.parametrize("entry", ["infer", "bind"])
@pytest.mark.parametrize("case", BAD_FEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_names_the_feed_that_does_not_fit(name: str, case: str, entry: str, make: Make) -> None:
    bad, said = BAD_FEEDS[case]
    with make(name) as runner, pytest.raises(BbxError, match=said) as caught:
        getattr(runner, entry)(bad)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_answers_only_while_it_is_open(name: str, make: Make, nets: ModuleType) -> None:
    runner = make(name)
    with pytest.raises(BbxError):
        runner.infer(nets.feeds(1))
    with runner:
        runner.infer(nets.feeds(1))
    with pytest.raises(UsageError, match="not open"):
        runner.infer(nets.feeds(1))
    with runner:
        assert runner.infer(nets.feeds(1))["logits"].shape == (1, 10)


@pytest.mark.parametrize("name", NAMES)
def test_threads_are_applied_recorded_and_given_back(name: str, make: Callable[..., Runner]) -> None:
    before = torch.get_num_threads()
    with make(name, threads=1) as runner:
        assert runner.threads == 1
        if name not in ("ort-cpu", "openvino"):
            assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_eager_computes_in_the_dtype_asked_for(dtype: torch.dtype, nets: ModuleType) -> None:
    module, given = nets.net(), nets.feeds(2)
    with EagerRunner(module, nets.INPUTS, nets.OUTPUTS, dtype=dtype) as runner:
        answer = runner.infer(given)["logits"]
    assert answer.dtype == np.float32
    assert 1e-6 < nets.relative(answer, nets.reference(given)) < 3e-2
    assert next(module.parameters()).dtype is torch.float32


def test_eager_refuses_a_module_in_training_mode(nets: ModuleType) -> None:
    module = nets.net()
    module[1].train()
    with (
        pytest.raises(BbxError, match=r"training mode.*\.eval\(\)"),
        EagerRunner(module, nets.INPUTS, nets.OUTPUTS),
    ):
        pass


def test_eager_names_what_the_module_refuses(nets: ModuleType) -> None:
    wrong = torch.nn.Conv2d(4, 4, 3).eval()
    with EagerRunner(wrong, nets.INPUTS, nets.OUTPUTS) as runner, pytest.raises(BbxError, match="channels"):
        runner.infer(nets.feeds(1))


def test_eager_says_when_outputs_are_described_wrongly(nets: ModuleType) -> None:
    runner = EagerRunner(nets.net(), nets.INPUTS, nets.OUTPUTS * 2)
    with runner, pytest.raises(BbxError, match="gave 1 outputs"):
        runner.infer(nets.feeds(1))


def test_a_cuda_graph_needs_cuda(nets: ModuleType) -> None:
    with pytest.raises(UsageError, match="CUDA graph"):
        EagerRunner(nets.net(), nets.INPUTS, nets.OUTPUTS, cuda_graph=True)


def test_a_shared_core_is_left_to_others_between_inferences(files: dict[str, Path], nets: ModuleType) -> None:
    def spun(shared_cores: bool) -> float:
        """Seconds of CPU that went by while nothing was asked for."""
        taken = 0.0
        with OrtRunner(files["onnx"], threads=2, shared_cores=shared_cores) as runner:
            for _ in range(20):
                runner.infer(nets.feeds(2))
                begun = time.process_time()
                time.sleep(0.005)
                taken += time.process_time() - begun
        return taken

    assert spun(shared_cores=True) < 0.3 * spun(shared_cores=False)
