"""Every CUDA runtime on the same network, against the module on the CPU.

FP32 on a GPU may use TF32, whose products keep 10 bits: hence the tolerance.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bbx.errors import ArtifactError
from bbx.runners.base import Runner
from bbx.runners.gpu import gpus

TF32 = 5e-3
NAMES = ("eager", "eager-graph", "compile", "compile-graph", "torchscript", "pt2", "ort-cuda")
Make = Callable[[str], Runner]


@pytest.fixture
def make(nets: ModuleType, files: dict[str, Path]) -> Make:
    from bbx.runners.eager import CompileRunner, EagerRunner
    from bbx.runners.ort import OrtRunner
    from bbx.runners.torchscript import Pt2Runner, TorchScriptRunner

    specs = nets.INPUTS, nets.OUTPUTS

    def runner(name: str) -> Runner:
        graph = name.endswith("-graph")
        if name.startswith("eager"):
            return EagerRunner(nets.net(), *specs, device="cuda", cuda_graph=graph)
        if name.startswith("compile"):
            return CompileRunner(nets.net(), *specs, device="cuda", cuda_graph=graph)
        if name == "torchscript":
            return TorchScriptRunner(files["torchscript"], *specs, device="cuda", trust=True)
        if name == "pt2":
            return Pt2Runner(files["pt2"], *specs, device="cuda", trust=True)
        return OrtRunner(files["onnx"], provider="cuda")

    return runner


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_module(name: str, batch: int, make: Make, nets: ModuleType) -> None:
    given = nets.feeds(batch)
    with make(name) as runner:
        answer = runner.infer(given)["logits"]
        assert runner.device == "cuda"
    assert answer.shape == (batch, 10)
    assert nets.relative(answer, nets.reference(given)) < TF32


@pytest.mark.parametrize("name", NAMES)
def test_samples_by_events(name: str, make: Make, nets: ModuleType) -> None:
    given = nets.feeds(4)
    with make(name) as runner:
        bound = runner.bind(given)
        samples = np.concatenate([bound.sample(50), bound.sample(20)])
        answer = bound.outputs()["logits"]
        taken = runner.device_bytes()
    assert bound.clock == "cuda_event"
    assert samples.dtype == np.int64
    assert samples.shape == (70,)
    assert (samples > 0).all()
    assert nets.relative(answer, nets.reference(given)) < TF32
    assert taken is not None
    assert taken >= 0


@pytest.mark.parametrize("name", NAMES)
def test_two_bound_inferences_do_not_mix(name: str, make: Make, nets: ModuleType) -> None:
    one, other = nets.feeds(1, seed=1), nets.feeds(3, seed=2)
    with make(name) as runner:
        first, second = runner.bind(one), runner.bind(other)
        second.step()
        first.step()
        assert nets.relative(first.outputs()["logits"], nets.reference(one)) < TF32
        runner.infer(nets.feeds(2, seed=3))
        second.step()
        assert nets.relative(second.outputs()["logits"], nets.reference(other)) < TF32


def test_half_precision_is_what_runs(nets: ModuleType) -> None:
    import torch

    from bbx.runners.eager import EagerRunner

    given = nets.feeds(2)
    runner = EagerRunner(nets.net(), nets.INPUTS, nets.OUTPUTS, device="cuda", dtype=torch.float16)
    with runner:
        answer = runner.infer(given)["logits"]
    assert answer.dtype == np.float32
    assert 1e-6 < nets.relative(answer, nets.reference(given)) < 3e-2


def test_a_batch_too_large_for_the_gpu_is_exhaustion(nets: ModuleType) -> None:
    import torch

    from bbx.errors import ExhaustedError
    from bbx.runners.eager import EagerRunner
    from bbx.types import TensorSpec

    class Greedy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_empty(1 << 42)

    specs = (TensorSpec("x", "float32", (1,)),)
    runner = EagerRunner(Greedy().eval(), specs, specs, device="cuda")
    with runner, pytest.raises(ExhaustedError, match="out of memory"):
        runner.infer({"x": np.zeros(1, np.float32)})


# A process is of one flavour for good, so each flavour's tests run in a process of their own.
_ENGINE = """
import importlib.util, sys
from pathlib import Path
import numpy as np
from bbx.errors import BbxError
from bbx.runners.trt import TrtRunner
from bbx.runners.trt_flavor import trt_module

flavor, nets_file, onnx, graph = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4] == "graph"
spec = importlib.util.spec_from_file_location("nets", nets_file)
nets = importlib.util.module_from_spec(spec); spec.loader.exec_module(nets)
path = onnx.with_suffix("." + flavor + ".engine")
if not path.exists():
    path.write_bytes(nets.engine(trt_module(flavor), onnx, []))
one, other = nets.feeds(1, seed=1), nets.feeds(3, seed=2)
close = lambda answer, given: nets.relative(answer["logits"], nets.reference(given)) < 5e-3
with TrtRunner(path, flavor=flavor, trust=True, cuda_graph=graph) as runner:
    assert runner.inputs == nets.INPUTS, runner.inputs
    assert runner.outputs == nets.OUTPUTS, runner.outputs
    assert close(runner.infer(one), one)
    first, second = runner.bind(one), runner.bind(other)
    for bound, given in ((second, other), (first, one)):
        samples = bound.sample(30)
        assert samples.dtype == np.int64 and samples.shape == (30,) and (samples > 0).all()
        assert close(bound.outputs(), given)
    runner.infer(nets.feeds(2))
    second.step()
    assert close(second.outputs(), other)
    assert runner.device_bytes() > 0
    try:
        runner.infer(nets.feeds(9))
    except BbxError as error:
        assert "--profile" in str(error), error
    else:
        raise AssertionError("batch 9 was accepted")
print("done")
"""


def _run_engine(flavor: str, onnx: Path, graph: bool) -> subprocess.CompletedProcess[str]:
    nets_file = Path(__file__).parent.parent / "runners" / "nets.py"
    words = [sys.executable, "-c", _ENGINE, flavor, str(nets_file), str(onnx), "graph" if graph else ""]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("flavor", ["tensorrt", "rtx"])
def test_an_engine_agrees_and_samples(flavor: str, graph: bool, files: dict[str, Path]) -> None:
    module = "tensorrt" if flavor == "tensorrt" else "tensorrt_rtx"
    pytest.importorskip(module, reason=f"{module} is not installed")
    if flavor == "rtx" and gpus()[0].capability == (9, 0):
        pytest.skip("TensorRT for RTX does not support compute capability 9.0")
    done = _run_engine(flavor, files["onnx"], graph)
    assert done.stdout.strip().endswith("done"), done.stderr[-3000:]


def test_an_engine_for_another_gpu_is_refused(nets: ModuleType, files: dict[str, Path]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    other = (8, 6) if gpus()[0].capability != (8, 6) else (12, 0)
    path = files["onnx"].with_name("other.engine")
    code = (
        "import importlib.util, sys; from pathlib import Path\n"
        "from bbx.runners.trt_flavor import trt_module\n"
        "spec = importlib.util.spec_from_file_location('nets', sys.argv[1])\n"
        "nets = importlib.util.module_from_spec(spec); spec.loader.exec_module(nets)\n"
        f"plan = nets.engine(trt_module('rtx'), Path(sys.argv[2]), [{other}])\n"
        "Path(sys.argv[3]).write_bytes(plan)\n"
        "from bbx.errors import BbxError; from bbx.runners.trt import TrtRunner\n"
        "try:\n    TrtRunner(Path(sys.argv[3]), flavor='rtx', trust=True).__enter__()\n"
        "except BbxError as error:\n    print(type(error).__name__)\n"
    )
    nets_file = Path(__file__).parent.parent / "runners" / "nets.py"
    words = [sys.executable, "-c", code, str(nets_file), str(files["onnx"]), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.strip() == ArtifactError.__name__, done.stderr[-3000:]
