"""OpenVINO on the CPU, as another runtime to compare with.

It reads the ONNX graph itself. It would compute FP32 in BF16 where the CPU has instructions for that, and in
as many streams as it likes; here FP32 is what the graph says, and one inference has all threads.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bbx import artifact, lazy
from bbx.errors import ArtifactError, BbxError, UsageError
from bbx.runners.base import Arrays, Bound, Feeds, Runner, sample_host_clock
from bbx.runners.signal_stack import signal_stack_kept
from bbx.types import BYTES_PER_ELEMENT, TensorSpec

_DTYPES = {
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "boolean": "bool",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "f8e4m3": "float8_e4m3fn",
    "f8e5m2": "float8_e5m2",
}


def openvino() -> ModuleType:
    """OpenVINO, imported so that it cannot report to its maker.

    Its converter sends statistics of use unless a file in the user's home forbids it. bbx never calls the
    converter, and hides the package that would send: then the converter itself takes a stub in its place.

    Raises:
        UnavailableError: it is not installed, or does not load.
    """
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # makes its import fail
    return lazy.require("openvino")


class OpenvinoRunner(Runner):
    """An ONNX file in OpenVINO, on the CPU.

    Args:
        path: of the graph; its external data must stand in its own folder.
        threads: that compute one inference; by default OpenVINO's choice for the least latency.

    Raises:
        ArtifactError: on opening, the file is missing, truncated, or reaches outside its folder, or
            OpenVINO cannot compile it.
        UnavailableError: on opening, OpenVINO is not installed.
    """

    name = "openvino"

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self._path = path
        self._asked_threads = threads
        self._compiled: Any = None
        self._request: Any = None
        self._names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def _open(self) -> None:
        library = openvino()
        graph = artifact.checked_graph(self._path)[0].graph
        weights = {tensor.name for tensor in graph.initializer}
        self._names = (
            tuple(value.name for value in graph.input if value.name not in weights),
            tuple(value.name for value in graph.output),
        )
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if self._asked_threads is not None:
            options["INFERENCE_NUM_THREADS"] = str(self._asked_threads)
        # For AMX, its plugin gives the thread a signal stack with every network that it compiles.
        with _errors(partial(_refused, self._path)), signal_stack_kept():
            self._compiled = library.Core().compile_model(str(self._path), "CPU", options)
            self._request = self._compiled.create_infer_request()
            self.threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))

    def _close(self) -> None:
        self._request = None
        self._compiled = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(map(_spec, self._names[0], self._opened().inputs))

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(map(_spec, self._names[1], self._opened().outputs))

    def infer(self, feeds: Feeds) -> Arrays:
        request = self._opened_request()
        self._place(request, feeds)
        with _errors(_failed):
            request.infer()
        return self._answers(request)

    def bind(self, feeds: Feeds) -> Bound:
        """See `Runner.bind`; runs once, so that the kernels for these shapes are made."""
        with _errors(_failed):
            request = self._opened().create_infer_request()
        self._place(request, feeds)
        start, wait = request.start_async, request.wait

        def step() -> None:
            start()
            wait()

        with _errors(_failed):
            step()
        return Bound(
            step, partial(sample_host_clock, step), "perf_counter_ns", partial(self._answers, request)
        )

    def _place(self, request: Any, feeds: Feeds) -> None:
        """Copy the feeds into memory of a request."""
        self.check(feeds)
        library = openvino()
        for index, name in enumerate(self._names[0]):
            request.set_input_tensor(index, library.Tensor(np.array(feeds[name], order="C")))

    def _answers(self, request: Any) -> Arrays:
        """Copies of what a request computed."""
        return {
            name: np.array(request.get_output_tensor(index).data) for index, name in enumerate(self._names[1])
        }

    def _opened_request(self) -> Any:
        self._opened()
        return self._request

    def _opened(self) -> Any:
        if self._compiled is None:
            raise UsageError(f"{self.name}: the runner is not open.", hint="Use it in a `with` block.")
        return self._compiled


def _spec(name: str, port: Any) -> TensorSpec:
    dtype = _DTYPES.get(port.element_type.get_type_name(), "")
    if dtype not in BYTES_PER_ELEMENT:
        raise ArtifactError(f"{name!r} is a tensor of type {port.element_type}, which cannot be fed or read.")
    shape = tuple(size.get_length() if size.is_static else None for size in port.partial_shape)
    return TensorSpec(name, dtype, shape)


@contextlib.contextmanager
def _errors(failed: Callable[[str], BbxError]) -> Iterator[None]:
    """Turn what OpenVINO raises into what `failed` makes of its reason."""
    try:
        yield
    except RuntimeError as error:
        raise failed(_reason(error)) from error


def _refused(path: Path, reason: str) -> BbxError:
    return ArtifactError(f"OpenVINO refuses {path}: {reason}")


def _failed(reason: str) -> BbxError:
    return BbxError(f"OpenVINO failed: {reason}")


def _reason(error: Exception) -> str:
    """What a summary begins with, where there is one; else the last: the first say where it was raised."""
    _, summary, text = str(error).rpartition("Summary:")
    lines = [line.strip("- ") for line in text.splitlines() if line.strip("- ")]
    return lines[0 if summary else -1] if lines else type(error).__name__
