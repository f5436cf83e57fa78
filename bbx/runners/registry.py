"""Which runtimes there are, which of them this machine has, and how each is opened.

Imports nothing heavy: the command line asks here before it knows whether torch will be needed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from bbx import lazy
from bbx.errors import ArtifactError, UnavailableError, UsageError, did_you_mean
from bbx.runners.gpu import gpus
from bbx.types import Flavor, Format, Precision, TensorSpec

if TYPE_CHECKING:
    import torch

    from bbx.runners.base import Runner

_INSTALL_COMPILER = "Type: apt-get install g++, or set CXX."
_OLDEST_RTX = (7, 5)


class BuiltModel(Protocol):
    """A torch module with what it takes and gives; `bbx.models.build.Model` is one."""

    @property
    def module(self) -> torch.nn.Module:
        """In eval mode, on the CPU."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """In the order of the module's arguments."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """In the order of what the module returns."""


Subject = Path | BuiltModel


@dataclass(frozen=True, slots=True)
class Runtime:
    """One way to run a network.

    Attributes:
        name: on the command line and in reports.
        format: of the artefact it takes; None for a built model.
        device: `cpu`, `cuda`, or `any`: a GPU where torch finds one, else the CPU.
        cuda_graph: whether it can capture an inference as a CUDA graph.
        summary: what it is, in a few words.
    """

    name: str
    format: Format | None
    device: Literal["cpu", "cuda", "any"]
    cuda_graph: bool
    summary: str


RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        Runtime("eager", None, "any", True, "torch, operation by operation"),
        Runtime("compile", None, "any", True, "torch.compile with TorchInductor"),
        Runtime("torchscript", "torchscript", "any", False, "TorchScript, frozen"),
        Runtime("pt2", "pt2", "any", False, "a torch.export program"),
        Runtime("ort-cpu", "onnx", "cpu", False, "ONNX Runtime on the CPU"),
        Runtime("openvino", "onnx", "cpu", False, "OpenVINO on the CPU"),
        Runtime("ort-cuda", "onnx", "cuda", False, "ONNX Runtime on CUDA"),
        Runtime("tensorrt", "engine", "cuda", True, "TensorRT"),
        Runtime("rtx", "engine", "cuda", True, "TensorRT for RTX"),
        Runtime("fake", None, "cpu", False, "computes nothing; for tests"),
    )
}
"""All runtimes, in the order of reports."""


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether this machine has a runtime.

    Attributes:
        reason: why not; empty when it has.
        fix: what to type or do about it; empty when it has.
    """

    ok: bool
    reason: str = ""
    fix: str = ""


_Check = Callable[[], None]


def availability() -> dict[str, Availability]:
    """Which runtimes this machine has, by name, in the order of `RUNTIMES`.

    Asks the driver for GPUs and the file system for libraries; imports no framework, so it takes
    milliseconds. That a library also loads is for `bbx doctor` to find out.
    """
    return {name: _availability_of(name) for name in RUNTIMES}


def _availability_of(runtime: str) -> Availability:
    try:
        for check in _CHECKS[runtime]:
            check()
    except UnavailableError as error:
        return Availability(False, error.message, error.hint)
    return Availability(True)


def _needs(module: str) -> _Check:
    def check() -> None:
        if not lazy.installed(module):
            raise UnavailableError(
                f"{module} is not installed.", hint=f"Type: {lazy.install_command(module)}"
            )

    return check


def _needs_gpu() -> None:
    gpus()


def _needs_recent_gpu() -> None:
    first = gpus()[0]
    if first.capability < _OLDEST_RTX:
        raise UnavailableError(
            f"TensorRT for RTX needs compute capability 7.5, and {first.name} has "
            f"{first.capability[0]}.{first.capability[1]}.",
            hint="Use another runtime on this GPU.",
        )


def _needs_compiler() -> None:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UnavailableError(f"There is no C++ compiler {compiler!r}.", hint=_INSTALL_COMPILER)
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise UnavailableError("Python.h is not installed.", hint="Type: apt-get install python3-dev")


def _needs_cuda_provider() -> None:
    found = importlib.util.find_spec("onnxruntime")
    folders = (found.submodule_search_locations if found else None) or []
    if not any(Path(folder, "capi", "libonnxruntime_providers_cuda.so").is_file() for folder in folders):
        raise UnavailableError(
            "The installed ONNX Runtime was built without CUDA.",
            hint="Type: pip uninstall -y onnxruntime && pip install --force-reinstall onnxruntime-gpu",
        )


_CHECKS: dict[str, tuple[_Check, ...]] = {
    "eager": (_needs("torch"),),
    "compile": (_needs("torch"), _needs_compiler),
    "torchscript": (_needs("torch"),),
    "pt2": (_needs("torch"),),
    "ort-cpu": (_needs("onnxruntime"),),
    "openvino": (_needs("openvino"),),
    "ort-cuda": (_needs("onnxruntime"), _needs_cuda_provider, _needs("cuda"), _needs_gpu),
    "tensorrt": (_needs("tensorrt"), _needs("cuda"), _needs_gpu),
    "rtx": (_needs("tensorrt_rtx"), _needs("cuda"), _needs_recent_gpu),
    "fake": (),
}


def open_runner(
    runtime: str,
    subject: Subject,
    *,
    threads: int | None = None,
    trust: bool = False,
    cuda_graph: bool = False,
    precision: Precision = "fp32",
    shared_cores: bool = False,
) -> Runner:
    """The runner of `runtime` for `subject`; nothing is loaded before it is entered.

    Args:
        subject: the artefact that the runtime takes, or a built model for `eager`, `compile` and `fake`.
        threads: intra-op threads on the CPU.
        trust: load a program that bbx did not make here.
        cuda_graph: capture an inference and replay it.
        precision: what `eager` and `compile` compute in; an artefact has its own.
        shared_cores: for whom other work on the CPU alternates with inferences; see `OrtRunner`.

    Raises:
        UsageError: there is no such runtime, it does not take this subject, or it has no CUDA graphs.
        UnavailableError: this machine does not have it.
        ArtifactError: `fake` was given a file without a manifest.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"There is no runtime {runtime!r}.", hint=did_you_mean(runtime, RUNTIMES))
    found = _availability_of(runtime)
    if not found.ok:
        raise UnavailableError(f"{runtime}: {found.reason}", hint=found.fix)
    if cuda_graph and not RUNTIMES[runtime].cuda_graph:
        capable = ", ".join(name for name, each in RUNTIMES.items() if each.cuda_graph)
        raise UsageError(f"{runtime} has no CUDA graphs.", hint=f"These have: {capable}.")
    if runtime == "fake":
        return _fake(subject)
    if runtime in ("eager", "compile"):
        return _module_runner(runtime, subject, threads, cuda_graph, precision)
    if not isinstance(subject, Path):
        raise UsageError(
            f"{runtime} runs a file in the format {RUNTIMES[runtime].format}, and was given a model.",
            hint="Export it first.",
        )
    if runtime in ("ort-cpu", "ort-cuda"):
        return _ort_runner(runtime, subject, threads, shared_cores)
    return _file_runner(runtime, subject, threads, trust, cuda_graph)


def _fake(subject: Subject) -> Runner:
    from bbx.artifact import read_manifest
    from bbx.runners.fake import FakeRunner

    if not isinstance(subject, Path):
        return FakeRunner(subject.inputs, subject.outputs)
    manifest = read_manifest(subject)
    if manifest is None:
        raise ArtifactError(f"{subject} has no manifest, so a fake cannot know its inputs.")
    return FakeRunner(manifest.inputs, manifest.outputs)


def _module_runner(
    runtime: str, subject: Subject, threads: int | None, cuda_graph: bool, precision: Precision
) -> Runner:
    import torch

    from bbx.runners.eager import CompileRunner, EagerRunner

    dtypes = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
    if precision not in dtypes:
        raise UsageError(
            f"{runtime} does not compute in {precision}.", hint=f"It does in {', '.join(dtypes)}."
        )
    if isinstance(subject, Path):
        raise UsageError(f"{runtime} runs a model, and was given {subject}.", hint="Name the model.")
    runner = EagerRunner if runtime == "eager" else CompileRunner
    return runner(
        subject.module,
        subject.inputs,
        subject.outputs,
        device=_torch_device(),
        threads=threads,
        dtype=dtypes[precision],
        cuda_graph=cuda_graph,
    )


def _ort_runner(runtime: str, path: Path, threads: int | None, shared_cores: bool) -> Runner:
    from bbx.runners.ort import OrtRunner, Provider

    provider: Provider = "cpu" if runtime == "ort-cpu" else "cuda"
    return OrtRunner(path, provider=provider, threads=threads, shared_cores=shared_cores)


def _file_runner(runtime: str, path: Path, threads: int | None, trust: bool, cuda_graph: bool) -> Runner:
    if runtime in ("torchscript", "pt2"):
        from bbx.runners.torchscript import Pt2Runner, TorchScriptRunner

        program = TorchScriptRunner if runtime == "torchscript" else Pt2Runner
        return program(path, device=_torch_device(), threads=threads, trust=trust)
    if runtime == "openvino":
        from bbx.runners.openvino import OpenvinoRunner

        return OpenvinoRunner(path, threads=threads)
    from bbx.runners.trt import TrtRunner

    flavor: Flavor = "tensorrt" if runtime == "tensorrt" else "rtx"
    return TrtRunner(path, flavor=flavor, trust=trust, cuda_graph=cuda_graph)


def _torch_device() -> Literal["cpu", "cuda"]:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
