"""A model without numbers: its modules, shapes and types, on the meta device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.nn.parameter import is_lazy

from bbx.errors import ModelError
from bbx.models.build import Model, build
from bbx.models.spec import ModelSpec

_NEEDS_NUMBERS = (RuntimeError, NotImplementedError, TypeError, ValueError, ModelError)
"""What is raised where a constructor computes with its own parameters."""


def outline(spec: ModelSpec) -> Model:
    """Build a model without numbers: nothing is downloaded, drawn or computed.

    Where a constructor needs numbers it gets random ones. Weights in a file are loaded, so that one that does
    not fit is found.

    Raises:
        BbxError: as `build`.
    """
    if spec.weights_are_a_file:
        return build(spec)
    bare = replace(spec, weights="random")
    try:
        with _without_numbers():
            return build(bare)
    except _NEEDS_NUMBERS:
        return build(bare, to_learn=True)


@contextlib.contextmanager
def _without_numbers() -> Iterator[None]:
    """Move parameters and buffers of modules to the meta device as they are made.

    Other tensors stay what they are: some constructors compute their plan with tensors.
    """

    def of_parameter(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if parameter.is_meta or is_lazy(parameter):
            return None
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    def of_buffer(module: nn.Module, name: str, buffer: torch.Tensor) -> torch.Tensor | None:
        return None if buffer.is_meta or is_lazy(buffer) else buffer.to("meta")

    # torch documents that a hook may give another tensor, and declares that it gives none.
    handles = (
        hooks.register_module_parameter_registration_hook(of_parameter),  # type: ignore[arg-type]
        hooks.register_module_buffer_registration_hook(of_buffer),  # type: ignore[arg-type]
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
