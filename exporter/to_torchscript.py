"""A torch module to TorchScript: traced, or scripted where tracing would lose control flow."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn
from torch.jit._trace import TracerWarning

from bbx.errors import ExportError
from bbx.exporter.module_state import example_inputs, exporting, torch_reason
from bbx.types import TensorSpec


def torchscript_from_module(
    module: nn.Module, inputs: tuple[TensorSpec, ...], out: Path, *, batch: int | None = None
) -> tuple[str, tuple[str, ...]]:
    """Export `module` to the TorchScript file `out`.

    A trace records one path through the module. When the tracer warns that a Python branch depended on
    a tensor, scripting is tried first, and the trace is kept only if the module cannot be scripted; the
    parity check then decides, at other batch sizes and inputs than the traced ones.

    Args:
        module: in eval mode, on the CPU.
        batch: rows of a fixed batch, or None for a dynamic one.

    Returns:
        `trace` or `script`, and notes for the user.

    Raises:
        ExportError: a submodule is training, or the module can be neither traced nor scripted.
    """
    examples = example_inputs(inputs, batch)
    notes: list[str] = []
    with exporting(module), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        traced, trace_failure = _traced(module, examples)
        branches = [str(w.message) for w in caught if issubclass(w.category, TracerWarning)]
        method, program = "trace", traced
        if traced is None or any("Python boolean" in text for text in branches):
            scripted, script_failure = _scripted(module, examples)
            if scripted is not None:
                method, program = "script", scripted
            elif traced is None:
                raise ExportError(
                    f"Tracing failed ({trace_failure}) and scripting failed ({script_failure}).",
                    hint="Try --format onnx or pt2.",
                )
            else:
                notes.append(f"A branch depends on a tensor, and scripting failed: {script_failure}")
        assert program is not None  # one of the two is there, or the error above was raised
        # torch's own file writer ends the process with SIGABRT when the disk is full.
        out.write_bytes(program.save_to_buffer())
    return method, tuple(notes)


def _traced(
    module: nn.Module, examples: tuple[torch.Tensor, ...]
) -> tuple[torch.jit.ScriptModule | None, str]:
    try:
        program: torch.jit.ScriptModule = torch.jit.trace(module, examples, check_trace=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - whatever torch raises, scripting is tried
        return None, torch_reason(error)
    return program, ""


def _scripted(
    module: nn.Module, examples: tuple[torch.Tensor, ...]
) -> tuple[torch.jit.ScriptModule | None, str]:
    """Script the module; refused unless it returns what the module returns."""
    try:
        scripted = torch.jit.script(module)
        answer, wanted = scripted(*examples), module(*examples)
    except Exception as error:  # noqa: BLE001 - whatever torch raises, the trace is used
        return None, torch_reason(error)
    if type(answer) is not type(wanted):
        return None, f"the scripted module returns {type(answer).__name__}, not {type(wanted).__name__}"
    return scripted, ""
