"""The state a module must be in to be exported, checked before and after."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from bbx.errors import ExportError
from bbx.exporter.verify import EXAMPLE_BATCH
from bbx.types import TensorSpec


def require_eval(module: nn.Module, when: str) -> None:
    """Check that every submodule is in eval mode.

    Args:
        when: `before` or `after` the export; for the message.

    Raises:
        ExportError: names the first submodules that are training.
    """
    training = [name or "the model itself" for name, child in module.named_modules() if child.training]
    if training:
        shown = ", ".join(training[:3]) + (", …" if len(training) > 3 else "")
        raise ExportError(
            f"{len(training)} submodules are in training mode {when} the export: {shown}.",
            hint="Call module.eval(), and let no forward call .train().",
        )


@contextlib.contextmanager
def exporting(module: nn.Module) -> Iterator[None]:
    """Hold the module in eval mode and without gradients while it is exported.

    Raises:
        ExportError: as `require_eval`.
    """
    require_eval(module, "before")
    with torch.no_grad():
        yield
    require_eval(module, "after")


def example_inputs(inputs: tuple[TensorSpec, ...], batch: int | None) -> tuple[torch.Tensor, ...]:
    """Seeded example tensors to trace with.

    Args:
        inputs: their leading dimension is the batch.
        batch: rows of a fixed batch, or None for a dynamic one.
    """
    generator = torch.Generator().manual_seed(0)
    examples = []
    for spec in inputs:
        shape = spec.concrete(EXAMPLE_BATCH if batch is None else batch)
        dtype: torch.dtype = getattr(torch, spec.dtype)
        if dtype.is_floating_point:
            examples.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            examples.append(torch.randint(0, 256, shape, generator=generator).to(dtype))
    return tuple(examples)


def image_axes(spec: TensorSpec) -> tuple[int, int]:
    """Positions of height and width in an image input, NCHW or NHWC.

    Raises:
        ExportError: the input is no batch of images.
    """
    if len(spec.shape) == 4 and spec.shape[1] == 3:
        return (2, 3)
    if len(spec.shape) == 4 and spec.shape[3] == 3:
        return (1, 2)
    raise ExportError(
        f"--dynamic-size needs a batch of RGB images, and input {spec.name!r} is {list(spec.shape)}.",
        hint="Leave --dynamic-size out.",
    )


def torch_reason(error: BaseException) -> str:
    """The one line of a torch exporter's error that says what is wrong."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return f"{type(root).__name__}: {text[:300]}"
