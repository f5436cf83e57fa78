"""Streams, buffers, graphs and the event clock of a CUDA device, for runtimes that are not torch.

Built on `cuda.bindings`, which torch's CUDA wheels bring along: its runtime is linked into it, whereas
Polygraphy's wrapper looks for a `libcudart.so` in system folders and misses the one in the wheels. The
handles are the driver's, on the primary context that torch, ONNX Runtime and TensorRT share.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bbx import lazy
from bbx.errors import BbxError, ExhaustedError, UnavailableError


def _runtime() -> ModuleType:
    return lazy.require("cuda.bindings.runtime")


def _call(function: str, *args: Any) -> Any:
    """Call the CUDA runtime and return what it gives beside its status.

    Raises:
        UnavailableError: no usable driver or device.
        ExhaustedError: the device is out of memory.
        BbxError: any other failure, by its CUDA name.
    """
    runtime = _runtime()
    status, *values = getattr(runtime, function)(*args)
    if status != runtime.cudaError_t.cudaSuccess:
        text = f"{function} failed: {status.name}."
        if status == runtime.cudaError_t.cudaErrorMemoryAllocation:
            raise ExhaustedError(f"The GPU is out of memory: {text}", hint="Use a smaller batch or profile.")
        if status.name in (
            "cudaErrorInsufficientDriver",
            "cudaErrorNoDevice",
            "cudaErrorInitializationError",
        ):
            raise UnavailableError(f"There is no usable CUDA device: {text}")
        raise BbxError(text)
    return values[0] if len(values) == 1 else values


def require_device() -> None:
    """Make sure that a CUDA device can be used, and set up its primary context.

    Raises:
        UnavailableError: there is none, or its driver is too old.
    """
    _call("cudaFree", 0)


def free_bytes() -> int:
    """Free memory of the current device, in bytes; what other processes take shows in it."""
    free, _ = _call("cudaMemGetInfo")
    return int(free)


def copy_to_device(address: int, array: NDArray[Any], stream: Stream) -> None:
    """Enqueue the copy of a C-contiguous host array, which must stay until it is done."""
    kind = _runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
    _call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream.handle)


def copy_to_host(array: NDArray[Any], address: int, stream: Stream) -> None:
    """Enqueue a copy that fills a C-contiguous host array, which must stay until it is done."""
    kind = _runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
    _call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream.handle)


class PinnedArray:
    """A copy of an array whose pages are locked, so that a device reads them without a detour.

    Attributes:
        array: C-contiguous; valid until `free`.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = np.array(array, order="C")
        _call("cudaHostRegister", self.array.ctypes.data, max(self.array.nbytes, 1), 0)

    def free(self) -> None:
        """Unlock the pages."""
        _call("cudaHostUnregister", self.array.ctypes.data)


class Buffer:
    """Linear device memory of a fixed size, owned by this object until `free`.

    Attributes:
        address: device pointer.
        nbytes: size asked for; one byte is taken where that is nought, so that the address is valid.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.address = int(_call("cudaMalloc", max(nbytes, 1)))

    def upload(self, array: NDArray[Any], stream: Stream) -> None:
        """Copy a C-contiguous host array in, and wait until that is done."""
        copy_to_device(self.address, array, stream)
        stream.synchronize()

    def download(self, array: NDArray[Any], stream: Stream) -> None:
        """Fill a C-contiguous host array with the first bytes of the buffer, and wait until that is done."""
        copy_to_host(array, self.address, stream)
        stream.synchronize()

    def free(self) -> None:
        """Give the memory back."""
        _call("cudaFree", self.address)


class Stream:
    """A CUDA stream that does not wait for the default stream, with a pool of timing events.

    Attributes:
        handle: as `cuda.bindings` knows it; `int(handle)` is the address that other libraries take.
    """

    def __init__(self) -> None:
        self.handle = _call("cudaStreamCreateWithFlags", _runtime().cudaStreamNonBlocking)
        self._events: list[Any] = []

    @property
    def address(self) -> int:
        """The stream as an integer."""
        return int(self.handle)

    def synchronize(self) -> None:
        """Wait until everything enqueued so far is done."""
        _call("cudaStreamSynchronize", self.handle)

    def sample(self, enqueue: Callable[[], object], count: int) -> NDArray[np.int64]:
        """Enqueue `count` times, each between a pair of events, then wait once and read the pairs.

        The first event's time is taken when the stream reaches it: where the host enqueues more slowly than
        the device computes, the wait for the host is inside the pair, as it is inside a user's latency.

        Returns:
            int64 [count], nanoseconds (CUDA resolves about 0.5 µs).
        """
        while len(self._events) < 2 * count:
            self._events.append(_call("cudaEventCreate"))
        starts, stops = self._events[:count], self._events[count : 2 * count]
        record = _runtime().cudaEventRecord
        for start, stop in zip(starts, stops, strict=True):
            record(start, self.handle)
            enqueue()
            record(stop, self.handle)
        self.synchronize()
        pairs = zip(starts, stops, strict=True)
        milliseconds = [_call("cudaEventElapsedTime", start, stop) for start, stop in pairs]
        return np.rint(np.array(milliseconds, dtype=np.float64) * 1e6).astype(np.int64)

    def timed(self, steps: Sequence[Callable[[], object]]) -> list[int]:
        """Enqueue steps one after another, with an event between any two, and wait for the last.

        Returns:
            Nanoseconds of each step on the device, the wait for the host included.
        """
        while len(self._events) <= len(steps):
            self._events.append(_call("cudaEventCreate"))
        record = _runtime().cudaEventRecord
        record(self._events[0], self.handle)
        for step, event in zip(steps, self._events[1:], strict=False):
            step()
            record(event, self.handle)
        self.synchronize()
        pairs = zip(self._events, self._events[1 : len(steps) + 1], strict=False)
        return [round(_call("cudaEventElapsedTime", start, stop) * 1e6) for start, stop in pairs]

    @contextlib.contextmanager
    def captured(self) -> Iterator[Graph]:
        """Record what is enqueued meanwhile instead of running it; the graph is ready at the end."""
        graph = Graph(self)
        _call(
            "cudaStreamBeginCapture",
            self.handle,
            _runtime().cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed,
        )
        try:
            yield graph
        except BaseException:
            _runtime().cudaStreamEndCapture(self.handle)
            raise
        graph.instantiate(_call("cudaStreamEndCapture", self.handle))

    def free(self) -> None:
        """Wait, then give back the stream and its events."""
        self.synchronize()
        for event in self._events:
            _call("cudaEventDestroy", event)
        self._events.clear()
        _call("cudaStreamDestroy", self.handle)


class Graph:
    """What a stream recorded, ready to be launched on it; see `Stream.captured`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._executable: Any = None

    def instantiate(self, graph: Any) -> None:
        """Make a recorded `cudaGraph_t` executable; the recording itself is given back."""
        self._executable = _call("cudaGraphInstantiate", graph, 0)
        _call("cudaGraphDestroy", graph)

    def launch(self) -> None:
        """Enqueue the whole recording on its stream."""
        _call("cudaGraphLaunch", self._executable, self._stream.handle)

    def free(self) -> None:
        """Give the executable back."""
        _call("cudaGraphExecDestroy", self._executable)
