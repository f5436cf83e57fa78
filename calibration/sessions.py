"""ONNX Runtime sessions over graphs that exist in memory only."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from bbx.errors import BbxError, UnavailableError
from bbx.exporter.onnx_io import save_onnx, spill_onnx
from bbx.memory import give_back
from bbx.runners.gpu import gpus
from bbx.runners.ort import DROPS_RELU

_SILENT = 4
"""It would print what is raised here as an error."""


class Session:
    """A graph in ONNX Runtime.

    Attributes:
        inputs, outputs: names.
    """

    def __init__(self, session: onnxruntime.InferenceSession, purpose: str, *, shrinks: bool) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._purpose = purpose
        self._how = onnxruntime.RunOptions()
        if shrinks:
            self._how.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self.inputs = tuple(each.name for each in session.get_inputs())
        self.outputs = tuple(each.name for each in session.get_outputs())

    def close(self) -> None:
        """End the session; nothing can be run after it."""
        self._session = None
        give_back()

    def run(
        self, feeds: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None
    ) -> list[NDArray[Any]]:
        """The outputs, or those that are named.

        Raises:
            BbxError: ONNX Runtime cannot run the graph on these feeds.
        """
        assert self._session is not None, "the session is closed"
        try:
            found: list[NDArray[Any]] = self._session.run(
                None if wanted is None else list(wanted), dict(feeds), self._how
            )
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise BbxError(f"ONNX Runtime cannot run the graph for {self._purpose}: {error}") from error
        return found


@contextmanager
def session(
    model: ModelProto, purpose: str, *, exact: bool = False, inside: bool = False, spent: bool = False
) -> Iterator[Session]:
    """Open a graph; on CUDA where ONNX Runtime has it, else on the CPU.

    Args:
        purpose: what for, as in "cannot run the graph for …".
        exact: compute Q/DQ nodes as written, in floating point, as TensorRT's numbers are; otherwise ONNX
            Runtime may fuse them into integer kernels that also round the outputs of layers.
        inside: most activations leave the graph or are measured in it, and not only its answers do.
        spent: nobody needs the graph afterwards, so its weights may be taken out of it.

    Raises:
        BbxError: ONNX Runtime cannot load the graph.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    if inside:
        # As the nodes stand: ONNX Runtime's own order leaves what reads an activation for later, and so keeps
        # all of them. A range scan of ViT-L/16 at 512 pixels peaked at 15 GB so, and at 2.6 GB in the graph's
        # order. Of answers alone it is the other way round, as tests/pipeline/test_memory.py sees; and what
        # the arena holds grows from run to run, unless it shrinks.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if exact:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    providers = ["CPUExecutionProvider"]
    if _has_gpu() and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    with tempfile.TemporaryDirectory(prefix="bbx-graph-") as folder:
        path = Path(folder) / "model.onnx"
        write = spill_onnx if spent else save_onnx
        write(model, path)
        del model  # whoever made the graph for this session alone needs it no longer
        try:
            # From a file: of a graph that is given as bytes ONNX Runtime keeps those too.
            opened = onnxruntime.InferenceSession(
                str(path), options, providers=providers, disabled_optimizers=list(DROPS_RELU)
            )
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise BbxError(f"ONNX Runtime cannot load the graph for {purpose}: {error}") from error
        made = Session(opened, purpose, shrinks=not inside)
        del opened
        try:
            yield made
        finally:
            made.close()


def _has_gpu() -> bool:
    """Whether there is a GPU: ONNX Runtime complains aloud when it looks for one in vain."""
    try:
        return bool(gpus())
    except UnavailableError:
        return False
