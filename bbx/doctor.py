"""What this machine can do, what is missing, and what to type about it.

Libraries are loaded in child processes: one that crashes when it is loaded, as builds of
torch and torchvision that do not belong together can, is then a line of the report. The engine builders
prove themselves on a graph of one node. Nothing is asked of the network.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

from bbx import lazy
from bbx.artifact import state_folder
from bbx.errors import BbxError, BuildError, UnavailableError
from bbx.process import run_task
from bbx.runners.gpu import gpus
from bbx.runners.registry import RUNTIMES, Availability, availability
from bbx.runners.trt_flavor import MODULES, trt_module
from bbx.types import SCHEMA, Flavor
from bbx.version import __version__

_GROUPS = (
    ("torch", "torchvision", "timm"),
    ("onnx", "onnxscript", "onnxruntime", "polygraphy"),
    ("safetensors", "pydantic", "numpy", "PIL", "pynvml"),
    ("openvino",),
    ("cuda.bindings",),
    ("tensorrt",),
    ("tensorrt_rtx",),
)
"""What is loaded in one child process; the flavours of TensorRT apart from each other."""

OPTIONAL = ("openvino", "cuda.bindings", "tensorrt", "tensorrt_rtx")
"""Modules that only some runtimes need."""

_LOW_DISK_BYTES = 5 * 2**30
_RUNTIME_NEEDS = {
    "eager": "torch",
    "compile": "torch",
    "torchscript": "torch",
    "pt2": "torch",
    "ort-cpu": "onnxruntime",
    "openvino": "openvino",
    "ort-cuda": "onnxruntime",
    "tensorrt": "tensorrt",
    "rtx": "tensorrt_rtx",
}

Document = dict[str, Any]


def examine() -> Document:
    """Examine this machine.

    Returns:
        a JSON document: `python`, `platform`, `libraries` by module, `gpus`, `runtimes` by name, `flavors`
        by name, `compiler`, `folders` by use, and `problems`: those findings that keep bbx from doing its
        work, each with `what`, `reason` and `fix`. Every finding has `ok`, `reason` and `fix`.
    """
    flavors: tuple[Flavor, ...] = get_args(Flavor)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        loading = [pool.submit(_libraries, group) for group in _GROUPS]
        building = {flavor: pool.submit(_flavor, flavor) for flavor in flavors}
        libraries = {name: found for future in loading for name, found in future.result().items()}
        built = {flavor: future.result() for flavor, future in building.items()}
    document: Document = {
        "schema": SCHEMA,
        "bbx": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": {
            "system": platform.platform(),
            "machine": platform.machine(),
            "usable_cpus": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
        "libraries": libraries,
        "gpus": _gpus(),
        "runtimes": _runtimes(libraries),
        "flavors": built,
        "compiler": _compiler(),
        "folders": {use: _folder(path) for use, path in _folders().items()},
    }
    return document | {"problems": _problems(document)}


def _finding(check: Callable[[], Document]) -> Document:
    """What `check` found, with `ok`, and with `reason` and `fix` where it raised."""
    try:
        return {"ok": True, "reason": "", "fix": ""} | check()
    except BbxError as error:
        return {"ok": False, "reason": error.message.splitlines()[0], "fix": error.hint}


def _libraries(modules: tuple[str, ...]) -> Document:
    """Findings by module. Where a child that loads several dies, each gets a child of its own."""
    present = [name for name in modules if lazy.installed(name)]
    try:
        findings = run_task("bbx.doctor:load_task", {"modules": present}) if present else {}
    except BbxError as error:
        if len(present) > 1:
            return {name: found for each in modules for name, found in _libraries((each,)).items()}
        findings = {present[0]: {"ok": False, "reason": _one_line(error), "fix": _reinstall(present[0])}}
    return {name: _library(name, findings.get(name)) for name in modules}


def _library(module: str, finding: Document | None) -> Document:
    missing = {
        "ok": False,
        "reason": f"{module} is not installed.",
        "fix": f"Type: {lazy.install_command(module)}",
    }
    return {"version": lazy.version(_DISTRIBUTIONS.get(module, module))} | (finding or missing)


_DISTRIBUTIONS = {"PIL": "pillow", "cuda.bindings": "cuda-bindings"}


def _reinstall(module: str) -> str:
    if module in ("torch", "torchvision"):
        return "Type: pip install --force-reinstall torch torchvision (both from the same index)"
    return f"Type: {lazy.install_command(module)}"


def _one_line(error: Exception) -> str:
    """An error's text; of a crash that is reported with its last words, the last of them."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"


def load_task(request: Document) -> Document:
    """Load libraries in this process; torchvision must also run `nms`, its first native operation.

    Args:
        request: `modules`, in the order to load them.

    Returns:
        a finding (`ok`, `reason`, `fix`) for each.
    """
    return {name: _finding(partial(_load, name)) for name in request["modules"]}


def _load(module: str) -> Document:
    try:
        lazy.require(module)
        if module == "torchvision":
            _run_nms()
    except BbxError:
        raise
    except Exception as error:
        # A library whose parts do not belong together raises anything while it is imported.
        raise UnavailableError(
            f"{module} is installed but does not work: {_one_line(error)}", hint=_reinstall(module)
        ) from error
    return {}


def _run_nms() -> None:
    torch, ops = lazy.require("torch"), lazy.require("torchvision.ops")
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    kept = ops.nms(boxes, torch.tensor([0.2, 0.9]), 0.5).tolist()
    if kept != [1]:
        raise UnavailableError(f"torchvision.ops.nms answers {kept}, not [1].", hint=_reinstall("torch"))


def _flavor(flavor: Flavor) -> Document:
    return {"targets": []} | _finding(lambda: run_task("bbx.doctor:flavor_task", {"flavor": flavor}))


def flavor_task(request: Document) -> Document:
    """Build an engine of one node with one flavour, for each GPU that it can compile for here.

    Args:
        request: `flavor`.

    Returns:
        `version`, and `targets`: GPUs such as `sm_86`.

    Raises:
        UnavailableError: the flavour is not installed, or needs a GPU to build.
        BuildError: the builder refuses.
    """
    from bbx.exporter.engine_options import capability_of, supported_targets

    flavor: Flavor = request["flavor"]
    trt = trt_module(flavor)
    targets = supported_targets(flavor)
    builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    output = network.add_identity(network.add_input("x", trt.float32, (1,))).get_output(0)
    network.mark_output(output)
    config = builder.create_builder_config()
    if flavor == "rtx":
        config.num_compute_capabilities = len(targets)
        for index, (major, minor) in enumerate(map(capability_of, targets)):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{major}{minor}"), index)
    if builder.build_serialized_network(network, config) is None:
        raise BuildError(
            f"{MODULES[flavor]} {trt.__version__} loads, but builds nothing.",
            hint=f"Type: {lazy.install_command(MODULES[flavor])}",
        )
    return {"version": str(trt.__version__), "targets": list(targets)}


def _gpus() -> Document:
    return {"devices": []} | _finding(lambda: {"devices": [asdict(gpu) for gpu in gpus()]})


def _runtimes(libraries: Document) -> Document:
    """As the registry sees them, less those whose library does not load."""
    found = availability()
    for name, module in _RUNTIME_NEEDS.items():
        library = libraries[module]
        if found[name].ok and not library["ok"]:
            found[name] = Availability(False, library["reason"], library["fix"])
    return {name: {"summary": RUNTIMES[name].summary} | asdict(each) for name, each in found.items()}


def _compiler() -> Document:
    """The C++ compiler that `torch.compile` would use."""
    command = os.environ.get("CXX", "g++")

    def check() -> Document:
        path = shutil.which(command)
        if path is None:
            raise UnavailableError(
                f"There is no C++ compiler {command!r}.", hint="Type: apt-get install g++, or set CXX."
            )
        return {"path": path}

    return {"path": None} | _finding(check)


def _folders() -> dict[str, Path]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    torch_home = Path(os.environ.get("TORCH_HOME") or cache / "torch")
    hugging_face = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    return {
        "artifacts": Path("artifacts").absolute(),
        "state": state_folder(),
        "temporary": Path(tempfile.gettempdir()),
        "torchvision weights": torch_home / "hub" / "checkpoints",
        "timm weights": Path(os.environ.get("HF_HUB_CACHE") or hugging_face / "hub"),
    }


def _folder(path: Path) -> Document:
    """Whether a folder can be written, or made, and how much space is left there."""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(there).free

    def check() -> Document:
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UnavailableError(f"{there} cannot be written.", hint=f"Type: chmod u+rwx {there}")
        if free < _LOW_DISK_BYTES:
            raise UnavailableError(f"{there} has {free / 2**30:.1f} GiB left.", hint="Free some space there.")
        return {}

    return {"path": str(path), "exists": path.exists(), "free_bytes": free} | _finding(check)


def _problems(document: Document) -> list[Document]:
    """Findings that keep bbx from its work: not the lack of a GPU or of an optional library."""
    suspects = {
        f"library {name}": found
        for name, found in document["libraries"].items()
        if name not in OPTIONAL or found["version"] is not None
    }
    suspects |= {f"folder for {use}": finding for use, finding in document["folders"].items()}
    return [
        {"what": what, "reason": found["reason"], "fix": found["fix"]}
        for what, found in suspects.items()
        if not found["ok"]
    ]
