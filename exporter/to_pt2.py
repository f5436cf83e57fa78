"""A torch module to a `.pt2` file: the program that `torch.export` captured, with its weights."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bbx.errors import ExportError
from bbx.exporter.module_state import example_inputs, exporting, torch_reason
from bbx.types import TensorSpec


def pt2_from_module(
    module: nn.Module, inputs: tuple[TensorSpec, ...], out: Path, *, batch: int | None = None
) -> None:
    """Export `module` to the file `out`.

    Args:
        module: in eval mode, on the CPU.
        batch: rows of a fixed batch, or None for a dynamic one.

    Raises:
        ExportError: a submodule is training, or `torch.export` cannot capture the module.
    """
    shapes: Any = tuple({} if batch is not None else {0: torch.export.Dim("batch")} for _ in inputs)
    with exporting(module):
        try:
            program = torch.export.export(module, example_inputs(inputs, batch), dynamic_shapes=shapes)
        except Exception as error:
            raise ExportError(
                f"torch.export cannot capture the model: {torch_reason(error)}",
                hint="Try --format torchscript or onnx.",
            ) from error
        # Through memory: torch's own file writer ends the process with SIGABRT when the disk is full.
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        out.write_bytes(buffer.getbuffer())
