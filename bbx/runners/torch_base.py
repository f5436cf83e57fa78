"""What the runtimes that torch itself provides have in common.

Everything runs under `torch.inference_mode`. On CUDA, TF32 is off while a runner is open: torch lets cuDNN
round FP32 to its 10 bits by default, and FP32 is what the row says. Other switches (cuDNN autotuning) are
left as the process has them, because that is what a user of torch gets.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bbx.errors import ArtifactError, BbxError, ExhaustedError, UnavailableError, UsageError
from bbx.runners.base import Arrays, Bound, Feeds, Runner, Staged, sample_host_clock
from bbx.runners.torch_staging import pinned, shared_tensor, staged_on_cuda
from bbx.types import TensorSpec

Device = Literal["cpu", "cuda"]
Forward = Callable[..., Any]


def tensor_from_array(array: NDArray[Any]) -> torch.Tensor:
    """A copy of a NumPy array as a tensor on the CPU; `bfloat16` (ml_dtypes) is understood."""
    copy = np.array(array, order="C")
    if str(copy.dtype) == "bfloat16":
        return torch.from_numpy(copy.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(copy)


def array_from_tensor(tensor: torch.Tensor) -> NDArray[Any]:
    """A copy of a tensor as a NumPy array that the caller owns; `bfloat16` comes in ml_dtypes' dtype."""
    host = tensor.detach().cpu().contiguous()
    if host.dtype is torch.bfloat16:
        import ml_dtypes

        return host.view(torch.int16).numpy().copy().view(ml_dtypes.bfloat16)
    return host.numpy().copy()


@contextlib.contextmanager
def torch_errors(runner: str) -> Iterator[None]:
    """Turn what torch raises while it loads or runs into errors that bbx names.

    Raises:
        ExhaustedError: out of host or device memory.
        BbxError: anything else, with torch's first line.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ExhaustedError(f"{runner}: the GPU is out of memory.", hint="Use a smaller batch.") from error
    except (RuntimeError, TypeError, ValueError) as error:
        text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "can't allocate memory" in str(error):
            raise ExhaustedError(f"{runner}: out of memory.", hint="Use a smaller batch.") from error
        raise BbxError(f"{runner}: {text}") from error


def _exchange_tf32(wanted: tuple[bool, bool]) -> tuple[bool, bool]:
    """Allow or forbid TF32 in cuDNN's convolutions and in matrix products; gives what was set before."""
    before = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = wanted
    return before


class TorchRunner(Runner):
    """A callable that takes and gives tensors, as a runner.

    Args:
        device: where to run it.
        threads: intra-op threads on the CPU, set for the whole process while the runner is open.
        dtype: floating-point dtype that the network computes in, or None for the one it was built in.
            Feeds are cast to it when they are placed, before the clock starts; outputs come back in the
            dtype of their spec.
        cuda_graph: capture one inference and replay it; needs `cuda`.

    Raises:
        UsageError: `cuda_graph` without `cuda`.
    """

    def __init__(
        self,
        *,
        device: Device = "cpu",
        threads: int | None = None,
        dtype: torch.dtype | None = None,
        cuda_graph: bool = False,
    ) -> None:
        if cuda_graph and device != "cuda":
            raise UsageError(f"{self.name}: a CUDA graph needs a CUDA device, and this runs on {device}.")
        self.device = device
        self._asked_threads = threads
        self._threads_before: int | None = None
        self._tf32_before: tuple[bool, bool] | None = None
        self._dtype = dtype
        self._cuda_graph = cuda_graph
        self._forward: Forward | None = None
        self._inputs: tuple[TensorSpec, ...] = ()
        self._outputs: tuple[TensorSpec, ...] = ()

    @abstractmethod
    def _load(self) -> Forward:
        """Load onto the device what is called with one tensor an input, in the order of `inputs`."""

    def _guard(self) -> contextlib.AbstractContextManager[None]:
        """Around every call of the forward function but those inside the clock; turns errors into bbx's."""
        return torch_errors(self.name)

    def _open(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UnavailableError(f"{self.name}: torch {torch.__version__} finds no CUDA device.")
        if self._asked_threads is not None:
            self._threads_before = torch.get_num_threads()
            torch.set_num_threads(self._asked_threads)
        self.threads = torch.get_num_threads()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._tf32_before = _exchange_tf32((False, False))
        try:
            with self._guard():
                self._forward = self._load()
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        self._forward = None
        if self._threads_before is not None:
            torch.set_num_threads(self._threads_before)
            self._threads_before = None
        if self._tf32_before is not None:
            _exchange_tf32(self._tf32_before)
            self._tf32_before = None
        if self.device == "cuda":
            torch.cuda.empty_cache()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    def device_bytes(self) -> int | None:
        """Peak of what torch's allocator handed out since the runner was opened, in bytes."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else None

    def infer(self, feeds: Feeds) -> Arrays:
        self.check(feeds)
        forward = self._opened()
        with torch.inference_mode(), self._guard():
            return self._arrays(forward(*self._place(feeds)))

    def bind(self, feeds: Feeds) -> Bound:
        """See `Runner.bind`; runs once, so that what torch compiles lazily for these shapes is compiled."""
        self.check(feeds)
        forward = self._opened()
        with torch.inference_mode(), self._guard():
            tensors = self._place(feeds)
            last = forward(*tensors)
        if self._cuda_graph:
            return self._bound_graph(forward, tensors)

        def step() -> None:
            nonlocal last
            last = forward(*tensors)

        def outputs() -> Arrays:
            return self._arrays(last)

        return self._bound(step, outputs)

    def _bound_graph(self, forward: Forward, tensors: tuple[torch.Tensor, ...]) -> Bound:
        graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.inference_mode(), self._guard():
            # Libraries choose algorithms and allocate workspaces in their first calls on a stream, which
            # must not happen while it is captured.
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    forward(*tensors)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph):
                last = forward(*tensors)
            graph.replay()

        recording = _Recording(graph, tensors, last)
        return self._bound(graph.replay, lambda: self._arrays(recording.result))

    def _bound(self, step: Callable[[], object], outputs: Callable[[], Arrays]) -> Bound:
        on_cuda = self.device == "cuda"

        def once() -> None:
            with torch.inference_mode():
                step()

        def sample(count: int) -> NDArray[np.int64]:
            with torch.inference_mode(), self._guard():
                return sample_torch_events(step, count) if on_cuda else sample_host_clock(step, count)

        return Bound(once, sample, "cuda_event" if on_cuda else "perf_counter_ns", outputs)

    def stage(self, feeds: Feeds) -> Staged:
        if self.device != "cuda":
            return super().stage(feeds)
        forward = self._opened()
        self.infer(feeds)  # what torch compiles lazily for these shapes is compiled
        return staged_on_cuda(self._upload, forward, self._arrays, self._guard)

    def pin(self, feeds: Feeds) -> Feeds:
        return super().pin(feeds) if self.device != "cuda" else pinned(feeds)

    def _upload(self, feeds: Feeds) -> tuple[torch.Tensor, ...]:
        """Enqueue the copies of the feeds; only pinned ones are left to themselves."""
        self.check(feeds)
        tensors = (shared_tensor(feeds[spec.name]) for spec in self.inputs)
        return tuple(
            tensor.to(self.device, self._dtype if tensor.is_floating_point() else None, non_blocking=True)
            for tensor in tensors
        )

    def _opened(self) -> Forward:
        if self._forward is None:
            raise UsageError(f"{self.name}: the runner is not open.", hint="Use it in a `with` block.")
        return self._forward

    def _place(self, feeds: Feeds) -> tuple[torch.Tensor, ...]:
        tensors = (tensor_from_array(feeds[spec.name]) for spec in self.inputs)
        return tuple(
            tensor.to(self.device, self._dtype if tensor.is_floating_point() else None) for tensor in tensors
        )

    def _arrays(self, result: Any) -> Arrays:
        tensors = _flat(result)
        if len(tensors) != len(self.outputs):
            raise ArtifactError(
                f"{self.name}: it gave {len(tensors)} outputs, and its description names "
                f"{[spec.name for spec in self.outputs]}.",
                hint="Make the artefact again.",
            )
        return {
            spec.name: array_from_tensor(tensor.to(getattr(torch, spec.dtype)))
            for spec, tensor in zip(self.outputs, tensors, strict=True)
        }


@dataclass(frozen=True)
class _Recording:
    """A captured inference, with the tensors whose addresses the recording holds."""

    graph: torch.cuda.CUDAGraph
    feeds: tuple[torch.Tensor, ...]
    result: Any


def sample_torch_events(step: Callable[[], object], count: int) -> NDArray[np.int64]:
    """Run `step` `count` times on torch's current stream, each between a pair of events.

    The stream is waited for once, at the end.

    Returns:
        int64 [count], nanoseconds (CUDA resolves about 0.5 µs).
    """
    event: Callable[[], torch.cuda.Event] = partial(torch.cuda.Event, enable_timing=True)
    starts, stops = [event() for _ in range(count)], [event() for _ in range(count)]
    for start, stop in zip(starts, stops, strict=True):
        start.record()
        step()
        stop.record()
    torch.cuda.synchronize()
    milliseconds = [start.elapsed_time(stop) for start, stop in zip(starts, stops, strict=True)]
    return np.rint(np.array(milliseconds, dtype=np.float64) * 1e6).astype(np.int64)


def _flat(result: Any) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    values = list(result.values()) if isinstance(result, Mapping) else list(result)
    return [tensor for value in values for tensor in _flat(value)]
