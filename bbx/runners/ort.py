"""ONNX Runtime, on the CPU or on a CUDA device.

The measured path binds buffers once and runs nothing but the session. On CUDA the session works on a
stream of this runner, so that an event pair brackets its kernels, and does not wait after each run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bbx import artifact, lazy
from bbx.errors import ArtifactError, BbxError, ExhaustedError, UnavailableError, UsageError
from bbx.memory import give_back
from bbx.runners import device as cuda
from bbx.runners.base import Arrays, Bound, Feeds, Runner, Staged, sample_host_clock
from bbx.runners.staging import Passage, pinned, staged, through
from bbx.types import TensorSpec

Provider = Literal["cpu", "cuda"]

_PROVIDERS: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ERROR_LEVEL = 3
DROPS_RELU = ("ReluQuantRewrite", "ClipQuantRewrite")
"""Graph optimisers of ONNX Runtime 1.31 that take a ReLU or a clip away before an FP8 QuantizeLinear, as if
its zero point were its least value; the network then computes something else."""
_DTYPES = {"float": "float32", "double": "float64"}


def _unsafe_for(graph: Any) -> list[str]:
    """Graph optimisers that must not see this graph.

    ONNX Runtime 1.31 dies of SIGSEGV when its blocked-layout transformer meets the FP16 graph of
    torchvision's ViT-B/16. On a CPU an FP16 graph is run for its answers, not for its speed.
    """
    float16, float8 = 10, 17  # onnx.TensorProto.FLOAT16, FLOAT8E4M3FN
    held = {tensor.data_type for tensor in graph.graph.initializer}
    return (["NchwcTransformer"] if float16 in held else []) + (list(DROPS_RELU) if float8 in held else [])


class OrtRunner(Runner):
    """An ONNX file in ONNX Runtime.

    Args:
        path: of the graph; its external data must stand in its own folder.
        provider: which execution provider must take the graph; falling back to another is an error.
        threads: intra-op threads; by default one a physical core.
        exact: compute Q/DQ nodes as they are written; ONNX Runtime would fuse them into integer kernels,
            which round the results of layers too.
        shared_cores: leave the cores to others between inferences. ONNX Runtime's threads would keep them
            busy for a while, waiting for the next one.

    Raises:
        ArtifactError: on opening, the file is missing, truncated, invalid, or reaches outside its folder.
        UnavailableError: on opening, ONNX Runtime or the provider cannot be used here.
    """

    def __init__(
        self,
        path: Path,
        *,
        provider: Provider = "cpu",
        threads: int | None = None,
        exact: bool = False,
        shared_cores: bool = False,
    ) -> None:
        self._path = path
        self._exact = exact
        self._shared_cores = shared_cores
        self._provider: Provider = provider
        self._asked_threads = threads
        self._session: Any = None
        self._stream: cuda.Stream | None = None
        self._owned = contextlib.ExitStack()
        self._free_before = 0
        self.name = f"ort-{provider}"
        self.device = provider

    def _open(self) -> None:
        ort = lazy.require("onnxruntime")
        graph, _ = artifact.checked_graph(self._path)
        options = ort.SessionOptions()
        options.log_severity_level = _ERROR_LEVEL
        if self._asked_threads is not None:
            options.intra_op_num_threads = self._asked_threads
        if self._exact:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if self._shared_cores:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.threads = self._asked_threads
        provider: Any = _PROVIDERS[self._provider]
        if self._provider == "cuda":
            provider = (provider, self._prepare_cuda(ort))
        try:
            with _errors(partial(_refused, self._path)):
                self._session = ort.InferenceSession(
                    str(self._path), options, providers=[provider], disabled_optimizers=_unsafe_for(graph)
                )
            self._refuse_fallback()
        except BaseException:
            self._close()
            raise

    def _prepare_cuda(self, ort: Any) -> dict[str, str]:
        wanted = _PROVIDERS["cuda"]
        if wanted not in ort.get_available_providers():
            raise UnavailableError(
                "This ONNX Runtime was built without CUDA.", hint="Type: pip install onnxruntime-gpu"
            )
        cuda.require_device()
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        self._free_before = cuda.free_bytes()
        self._stream = cuda.Stream()
        # FP32 is what the graph says; ONNX Runtime would round it to TF32 by default.
        return {"user_compute_stream": str(self._stream.address), "use_tf32": "0"}

    def _refuse_fallback(self) -> None:
        used = self._session.get_providers()
        if used[0] != _PROVIDERS[self._provider]:
            raise UnavailableError(
                f"ONNX Runtime fell back from {_PROVIDERS[self._provider]} to {used[0]}: "
                "the CUDA or cuDNN libraries it needs did not load."
            )

    def _close(self) -> None:
        self._session = None
        give_back()
        self._owned.close()
        if self._stream is not None:
            self._stream.free()
            self._stream = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(_spec(each) for each in self._opened().get_inputs())

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(_spec(each) for each in self._opened().get_outputs())

    def device_bytes(self) -> int | None:
        """Fall of the device's free memory since the runner was opened, in bytes."""
        return None if self._stream is None else max(self._free_before - cuda.free_bytes(), 0)

    def infer(self, feeds: Feeds) -> Arrays:
        self.check(feeds)
        session = self._opened()
        names = [output.name for output in session.get_outputs()]
        contiguous = {name: np.ascontiguousarray(feed) for name, feed in feeds.items()}
        with _errors(_failed):
            return dict(zip(names, session.run(names, contiguous), strict=True))

    def bind(self, feeds: Feeds) -> Bound:
        """See `Runner.bind`; runs once, to learn the shapes of the outputs."""
        step, _, results = self._bound(feeds)

        def outputs() -> Arrays:
            if self._stream is not None:
                self._stream.synchronize()
            return {name: np.array(value.numpy()) for name, value in results.items()}

        if self._stream is not None:
            return Bound(step, partial(self._stream.sample, step), "cuda_event", outputs)
        return Bound(step, partial(sample_host_clock, step), "perf_counter_ns", outputs)

    def stage(self, feeds: Feeds) -> Staged:
        """See `Runner.stage`; on CUDA the buffers are kept with it."""
        if (stream := self._stream) is None:
            return super().stage(feeds)
        step, sources, results = self._bound(feeds)
        addresses = {name: value.data_ptr() for name, value in (sources | results).items()}
        shapes = {name: value.numpy() for name, value in results.items()}

        def passage(given: Feeds) -> Passage:
            self.check(given)
            answers = {name: np.empty_like(array) for name, array in shapes.items()}
            return through(addresses, given, answers, step, stream)

        return staged(stream, passage)

    def pin(self, feeds: Feeds) -> Feeds:
        return super().pin(feeds) if self._stream is None else pinned(feeds, self._owned)

    def _bound(self, feeds: Feeds) -> tuple[Callable[[], object], dict[str, Any], dict[str, Any]]:
        """One inference that has run once, and where its inputs and outputs lie."""
        ort = lazy.require("onnxruntime")
        self.check(feeds)
        session = self._opened()
        place = partial(_place, ort, self._provider)
        sources = {name: place(np.asarray(feed)) for name, feed in feeds.items()}
        names = [output.name for output in session.get_outputs()]
        binding = session.io_binding()
        for name, value in sources.items():
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name, self._provider)
        step = partial(session.run_with_iobinding, binding, self._run_options(ort))
        with _errors(_failed):
            step()
        # What the first run has allocated is what the next ones write to.
        results = dict(zip(names, binding.get_outputs(), strict=True))
        for name, value in results.items():
            binding.bind_ortvalue_output(name, value)
        return step, sources, results

    def _run_options(self, ort: Any) -> Any:
        """Options of one run: none on the CPU, where passing any was measured to cost 29 µs a run."""
        if self._provider == "cpu":
            return None
        options = ort.RunOptions()
        options.log_severity_level = _ERROR_LEVEL
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return options

    def _opened(self) -> Any:
        if self._session is None:
            raise UsageError(f"{self.name}: the runner is not open.", hint="Use it in a `with` block.")
        return self._session


def _place(ort: Any, provider: Provider, array: NDArray[Any]) -> Any:
    """A copy of an array in memory that ONNX Runtime owns, on the provider's device."""
    value = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type, provider, 0)
    value.update_inplace(np.ascontiguousarray(array))
    return value


def _spec(node: Any) -> TensorSpec:
    kind = str(node.type)
    if not kind.startswith("tensor("):
        raise ArtifactError(f"{node.name!r} is a {kind}, and only tensors can be fed or read.")
    inner = kind.removeprefix("tensor(").removesuffix(")")
    if inner == "bfloat16":
        raise ArtifactError(
            f"{node.name!r} is bfloat16, which ONNX Runtime takes from no NumPy array.",
            hint="Export with float32 inputs and outputs.",
        )
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSpec(node.name, _DTYPES.get(inner, inner), shape)


@contextlib.contextmanager
def _errors(failed: Callable[[str], BbxError]) -> Iterator[None]:
    """Turn what ONNX Runtime raises into `ExhaustedError`, or into what `failed` makes of its reason."""
    state = lazy.require("onnxruntime.capi.onnxruntime_pybind11_state")
    kinds = (
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.InvalidArgument,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
        state.EPFail,
        state.Fail,
        RuntimeError,
    )
    try:
        yield
    except kinds as error:
        if "failed to allocate memory" in str(error).lower():
            raise ExhaustedError("ONNX Runtime is out of memory.", hint="Use a smaller batch.") from error
        raise failed(_reason(error)) from error


def _refused(path: Path, reason: str) -> BbxError:
    return ArtifactError(f"ONNX Runtime refuses {path}: {reason}")


def _failed(reason: str) -> BbxError:
    return BbxError(f"ONNX Runtime failed: {reason}")


def _reason(error: Exception) -> str:
    first = str(error).strip().splitlines()[0]
    return first.removeprefix("[ONNXRuntimeError] : ")
