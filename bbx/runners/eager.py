"""torch as it is, and torch through `torch.compile`."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from bbx.errors import BbxError, ModelError, UnavailableError
from bbx.runners.torch_base import Device, Forward, TorchRunner
from bbx.types import TensorSpec

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class EagerRunner(TorchRunner):
    """A module, called operation by operation.

    The module is not changed: where the device or the dtype asks for other weights, a copy gets them.

    Args:
        module: in eval mode, throughout.
        inputs, outputs: what it takes and gives, in its own order.

    Raises:
        ModelError: on opening, a submodule is in training mode.
    """

    name = "eager"

    def __init__(
        self,
        module: nn.Module,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        device: Device = "cpu",
        threads: int | None = None,
        dtype: torch.dtype | None = None,
        cuda_graph: bool = False,
    ) -> None:
        super().__init__(device=device, threads=threads, dtype=dtype, cuda_graph=cuda_graph)
        self._module = module
        self._inputs, self._outputs = inputs, outputs

    def _load(self) -> Forward:
        training = [name or "the module" for name, part in self._module.named_modules() if part.training]
        if training:
            raise ModelError(
                f"{self.name}: {training[0]} is in training mode, and {len(training) - 1} more.",
                hint="Call .eval() on the module.",
            )
        if self.device == "cpu" and self._dtype is None:
            return self._module
        moved = copy.deepcopy(self._module).to(self.device, self._dtype)
        _restore_float32(moved, self._module)
        return moved


def _restore_float32(moved: nn.Module, original: nn.Module) -> None:
    """Give modules that ask for FP32 (`float32_because`) the tensors that are their own back in it.

    Anchors in half precision would be a whole pixel off.
    """
    for path, part in original.named_modules():
        if not hasattr(part, "float32_because"):
            continue
        target = moved.get_submodule(path)
        for name, tensor in part.named_buffers(recurse=False):
            setattr(target, name, tensor.to(getattr(target, name).device))


class CompileRunner(EagerRunner):
    """A module, compiled by TorchInductor for each shape it is fed with.

    Shapes are compiled as static: kernels for a symbolic batch are slower, and torch would switch to them
    silently at the second shape. A module that has to be compiled too often is an error, where torch would
    silently run it eagerly.

    Args:
        mode: torch's name for how hard to try; `cuda_graph` chooses `reduce-overhead` for `default`.

    Raises:
        UnavailableError: on the first inference, there is no C++ compiler.
    """

    name = "compile"

    def __init__(
        self,
        module: nn.Module,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        device: Device = "cpu",
        threads: int | None = None,
        dtype: torch.dtype | None = None,
        mode: CompileMode = "default",
        cuda_graph: bool = False,
    ) -> None:
        super().__init__(
            module, inputs, outputs, device=device, threads=threads, dtype=dtype, cuda_graph=cuda_graph
        )
        # TorchInductor captures its own graphs; a second recording around them would only copy buffers.
        self._cuda_graph = False
        self._mode: CompileMode = "reduce-overhead" if cuda_graph and mode == "default" else mode

    def _load(self) -> Forward:
        module = super()._load()
        torch.compiler.reset()
        return torch.compile(module, mode=self._mode, dynamic=False)

    def _close(self) -> None:
        super()._close()
        torch.compiler.reset()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        with super()._guard(), _compile_errors(), _no_silent_fallback():
            yield


def _no_silent_fallback() -> contextlib.AbstractContextManager[None]:
    patch: contextlib.AbstractContextManager[None] = torch._dynamo.config.patch(
        fail_on_recompile_limit_hit=True
    )
    return patch


@contextlib.contextmanager
def _compile_errors() -> Iterator[None]:
    try:
        yield
    except FailOnRecompileLimitHit as error:
        raise BbxError(
            "compile: torch would compile the model once more than its limit, and run it eagerly instead.",
            hint="Open the runner again for further shapes.",
        ) from error
    except TorchDynamoException as error:
        if "No working C++ compiler" in str(error):
            raise UnavailableError(
                "compile: torch.compile needs a C++ compiler, and there is none.",
                hint="Type: apt-get install g++, or set CXX.",
            ) from error
        raise BbxError(f"compile: torch.compile failed: {str(error).splitlines()[0]}") from error
