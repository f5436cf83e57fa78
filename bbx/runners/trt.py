"""TensorRT engines, of either flavour.

Buffers and the stream are this runner's, allocated before the clock starts. Needs no torch: device memory,
events and graphs come from `bbx.runners.device`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bbx import artifact
from bbx.errors import ArtifactError, BbxError, ExhaustedError, UsageError
from bbx.runners import device as cuda
from bbx.runners.base import Arrays, Bound, Feeds, Runner, Staged
from bbx.runners.staging import Passage, pinned, staged, through
from bbx.runners.trt_binding import Binding
from bbx.runners.trt_engine import collecting_logger, engine_from_file
from bbx.runners.trt_flavor import trt_module
from bbx.types import BYTES_PER_ELEMENT, Flavor, TensorSpec

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
    "FP8": "float8_e4m3fn",
}


class TrtRunner(Runner):
    """A TensorRT engine file.

    Args:
        path: of the engine.
        flavor: which TensorRT built it; a process can run one flavour only.
        trust: load it although bbx did not make it here.
        cuda_graph: capture one inference for each bound shape and replay it.
        profile: index of the optimisation profile to use.

    Raises:
        ArtifactError: on opening, the file is missing, foreign, damaged, of another version, or made for
            another GPU.
        UnavailableError: on opening, this machine has no usable GPU or lacks this flavour.
        UsageError: on opening, the engine has no such profile, or the process uses the other flavour.
    """

    device = "cuda"

    def __init__(
        self,
        path: Path,
        *,
        flavor: Flavor,
        trust: bool = False,
        cuda_graph: bool = False,
        profile: int = 0,
    ) -> None:
        self.name = flavor
        self._path = path
        self._flavor: Flavor = flavor
        self._trust = trust
        self._cuda_graph = cuda_graph
        self._profile = profile
        self._owned = contextlib.ExitStack()
        self._engine: Any = None
        self._context: Any = None
        self._trt: Any = None
        self._stream: Any = None
        self._log: Any = None
        self._active: Binding | None = None
        self._free_before = 0

    def _open(self) -> None:
        if not self._path.is_file():
            raise ArtifactError(f"There is no file {self._path}.")
        artifact.require_trust(self._path, "engine", trust=self._trust)
        self._trt = trt_module(self._flavor)
        self._log = collecting_logger(self._trt)
        with contextlib.ExitStack() as owned:
            owned.callback(self._forget)
            self._engine = engine_from_file(self._trt, self._path, self._log)
            cuda.require_device()
            self._free_before = cuda.free_bytes()
            self._stream = cuda.Stream()
            owned.callback(self._stream.free)
            self._make_context()
            self._owned = owned.pop_all()

    def _make_context(self) -> None:
        profiles = self._engine.num_optimization_profiles
        if not 0 <= self._profile < profiles:
            raise UsageError(
                f"{self._path} has {profiles} optimisation profiles, and not number {self._profile}.",
                hint=f"Choose 0 to {profiles - 1}.",
            )
        # No local names: a traceback would keep TensorRT's objects alive (see `trt_engine`).
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._failure("could not set up the engine")
        if self._profile and not self._context.set_optimization_profile_async(
            self._profile, self._stream.address
        ):
            raise self._failure(f"could not choose profile {self._profile}")
        self._stream.synchronize()

    def _forget(self) -> None:
        self._active = None
        self._context = None
        self._engine = None
        self._stream = None

    def _close(self) -> None:
        # Last taken, first given back; the context goes before the stream it ran on.
        self._context = None
        self._owned.close()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._specs(self._trt.TensorIOMode.INPUT) if self._opened() else ()

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._specs(self._trt.TensorIOMode.OUTPUT) if self._opened() else ()

    def device_bytes(self) -> int | None:
        """Fall of the device's free memory since the engine was loaded: activations, buffers, graphs.

        The weights, which TensorRT uploads while it loads the engine, are counted by the engine's size.
        """
        taken = max(self._free_before - cuda.free_bytes(), 0)
        return taken + self._path.stat().st_size

    def infer(self, feeds: Feeds) -> Arrays:
        self._opened()
        self.check(feeds)
        with contextlib.ExitStack() as buffers:
            binding = self._allocate(feeds, buffers)
            self._enqueue()
            arrays = binding.download(self._stream)
            self._active = None
        return arrays

    def bind(self, feeds: Feeds) -> Bound:
        """See `Runner.bind`; the buffers live until the runner is closed."""
        self._opened()
        self.check(feeds)
        binding = self._allocate(feeds, self._owned)
        # TensorRT finishes set-up for new shapes in the first call, which must not be captured.
        self._enqueue()
        self._stream.synchronize()
        enqueue: Callable[[], object] = partial(self._context.execute_async_v3, self._stream.address)
        if self._cuda_graph:
            enqueue = self._captured()
            enqueue()

        def step() -> None:
            self._activate(binding)
            enqueue()

        def sample(count: int) -> NDArray[np.int64]:
            self._activate(binding)
            return self._sample(enqueue, count)

        return Bound(step, sample, "cuda_event", lambda: binding.download(self._stream))

    def stage(self, feeds: Feeds) -> Staged:
        """See `Runner.stage`; the buffers live until the runner is closed."""
        self._opened()
        self.check(feeds)
        binding = self._allocate(feeds, self._owned)

        def passage(given: Feeds) -> Passage:
            self.check(given)
            self._activate(binding)
            return through(binding.addresses, given, binding.empty(), self._enqueue, self._stream)

        return staged(self._stream, passage)

    def pin(self, feeds: Feeds) -> Feeds:
        self._opened()
        return pinned(feeds, self._owned)

    def _sample(self, enqueue: Callable[[], object], count: int) -> NDArray[np.int64]:
        before = len(self._log.errors)
        durations: NDArray[np.int64] = self._stream.sample(enqueue, count)
        if len(self._log.errors) > before:
            raise self._failure("failed while it was measured")
        return durations

    def _captured(self) -> Callable[[], None]:
        with self._stream.captured() as graph:
            self._enqueue()
        self._owned.callback(graph.free)
        launch: Callable[[], None] = graph.launch
        return launch

    def _allocate(self, feeds: Feeds, owned: contextlib.ExitStack) -> Binding:
        """Upload the feeds, allocate the outputs for their shapes, and point the context at both."""
        arrays = {name: np.ascontiguousarray(feed) for name, feed in feeds.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise self._misfit(name, shape)
        missing = self._context.infer_shapes()
        if missing:
            raise BbxError(f"{self.name}: the shapes do not determine {', '.join(missing)}.")
        dtypes = {spec.name: spec.dtype for spec in self.outputs}
        results = {name: tuple(self._context.get_tensor_shape(name)) for name in dtypes}
        sizes = {name: array.nbytes for name, array in arrays.items()} | {
            name: int(np.prod(shape, dtype=np.int64)) * BYTES_PER_ELEMENT[dtypes[name]]
            for name, shape in results.items()
        }
        buffers = {}
        for name, nbytes in sizes.items():
            buffers[name] = cuda.Buffer(nbytes)
            owned.callback(buffers[name].free)
        for name, array in arrays.items():
            buffers[name].upload(array, self._stream)
        binding = Binding(buffers, shapes, {name: (results[name], dtypes[name]) for name in results})
        self._activate(binding)
        return binding

    def _activate(self, binding: Binding) -> None:
        """Point the context at a binding's buffers, unless it already is."""
        if self._active is binding:
            return
        for name, shape in binding.shapes.items():
            self._context.set_input_shape(name, shape)
        for name, buffer in binding.buffers.items():
            self._context.set_tensor_address(name, buffer.address)
        self._active = binding

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.address):
            raise self._failure("failed to run")

    def _specs(self, mode: Any) -> tuple[TensorSpec, ...]:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return tuple(_spec(engine, name) for name in names if engine.get_tensor_mode(name) == mode)

    def _misfit(self, name: str, shape: tuple[int, ...]) -> BbxError:
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        return BbxError(
            f"{self.name}: input {name!r} is {list(shape)}, and profile {self._profile} of the engine takes "
            f"{list(low)} to {list(high)}.",
            hint="Build with a wider --profile.",
        )

    def _failure(self, what: str) -> BbxError:
        reason = self._log.last_error()
        if "out of memory" in reason.lower():
            return ExhaustedError(
                f"{self.name}: the GPU is out of memory.", hint="Use a smaller batch or profile."
            )
        return BbxError(f"{self.name}: TensorRT {what}: {reason}")

    def _opened(self) -> Any:
        if self._context is None:
            raise UsageError(f"{self.name}: the runner is not open.", hint="Use it in a `with` block.")
        return self._context


def _spec(engine: Any, name: str) -> TensorSpec:
    shape = tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name))
    return TensorSpec(name, _DTYPES[engine.get_tensor_dtype(name).name], shape)
