"""Programs that torch saved: TorchScript and `.pt2`. Both execute what their author wrote."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument
from torch.export.passes import move_to_device_pass

from bbx import artifact
from bbx.errors import ArtifactError, UsageError
from bbx.runners.torch_base import Device, Forward, TorchRunner
from bbx.types import TensorSpec


class _ProgramRunner(TorchRunner):
    def __init__(
        self,
        path: Path,
        inputs: tuple[TensorSpec, ...] = (),
        outputs: tuple[TensorSpec, ...] = (),
        *,
        device: Device = "cpu",
        threads: int | None = None,
        trust: bool = False,
    ) -> None:
        super().__init__(device=device, threads=threads)
        if bool(inputs) != bool(outputs):
            raise UsageError(f"{self.name}: inputs and outputs are given together, or neither.")
        self._inputs, self._outputs = inputs, outputs
        self._path = path
        self._trust = trust

    def _read_manifest(self) -> None:
        manifest = artifact.read_manifest(self._path)
        if manifest is not None:
            self._inputs, self._outputs = manifest.inputs, manifest.outputs


class TorchScriptRunner(_ProgramRunner):
    """A TorchScript file, frozen.

    A module that was not saved frozen is frozen after loading: measured on one core, that took 13 % off
    MobileNetV3-small and 1 % off ResNet-18 at a relative difference below 1e-6. `optimize_for_inference`
    is not applied: it made the first 16 % slower (and the second 13 % faster).

    Args:
        path: of the file.
        inputs, outputs: what it takes and gives; by default those of its manifest.
        trust: load it although bbx did not make it here.

    Raises:
        ArtifactError: on opening, the file is missing, foreign, broken, or nothing describes its inputs.
    """

    name = "torchscript"

    def _load(self) -> Forward:
        require_file(self._path)
        artifact.require_trust(self._path, "torchscript", trust=self._trust)
        if not self._inputs:
            self._read_manifest()
        if not self._inputs:
            raise ArtifactError(
                f"{self._path} has no manifest, and TorchScript does not say what its inputs are.",
                hint="Make it with: bbx export MODEL --format torchscript",
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the format is deprecated, and was chosen knowingly
                program: Any = torch.jit.load(str(self._path), map_location=self.device)  # type: ignore[no-untyped-call]
                # A frozen module has no `training` attribute, and cannot be frozen again.
                if hasattr(program, "training"):
                    program = torch.jit.freeze(program.eval())
        except (RuntimeError, ValueError) as error:
            raise broken(self._path, "a TorchScript file", error) from error
        forward: Forward = program
        return forward


class Pt2Runner(_ProgramRunner):
    """A `.pt2` file: the graph that `torch.export` captured, run operation by operation.

    Without a manifest, the program itself says what its inputs are; its outputs are then named `output_0`
    and so on.

    Args:
        path: of the file.
        inputs, outputs: what it takes and gives; by default those of its manifest.
        trust: load it although bbx did not make it here.

    Raises:
        ArtifactError: on opening, the file is missing, foreign or broken.
    """

    name = "pt2"

    def _load(self) -> Forward:
        require_file(self._path)
        artifact.require_trust(self._path, "pt2", trust=self._trust)
        try:
            program = torch.export.load(str(self._path))
        except Exception as error:
            # A zip that is cut or foreign makes torch.export raise almost anything.
            raise broken(self._path, "a .pt2 file", error) from error
        if not self._inputs:
            self._read_manifest()
        if not self._inputs:
            self._inputs, self._outputs = specs_of_program(program)
        if self.device != "cpu":
            program = move_to_device_pass(program, self.device)
        forward: Forward = program.module()
        return forward


def require_file(path: Path) -> None:
    """Raise ArtifactError unless `path` is a regular file."""
    if not path.is_file():
        raise ArtifactError(f"There is no file {path}.")


def broken(path: Path, what: str, error: Exception) -> ArtifactError:
    """The error for a file that its own library could not read, with that library's last word."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return ArtifactError(f"{path} is not {what}, or is truncated: {reason}", hint="Export or copy it again.")


def specs_of_program(program: ExportedProgram) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an exported program, as its graph describes them; symbolic sizes are None."""
    values: dict[str, Any] = {node.name: node.meta.get("val") for node in program.graph.nodes}

    def spec(name: str, node: str) -> TensorSpec:
        value = values[node]
        shape = tuple(size if isinstance(size, int) else None for size in value.shape)
        return TensorSpec(name, str(value.dtype).removeprefix("torch."), shape)

    inputs = [each.arg.name for each in program.graph_signature.input_specs if each.kind.name == "USER_INPUT"]
    outputs = [each.arg for each in program.graph_signature.output_specs if each.kind.name == "USER_OUTPUT"]
    tensors = [arg.name for arg in outputs if isinstance(arg, TensorArgument)]
    return (
        tuple(spec(name, name) for name in inputs),
        tuple(spec(f"output_{index}", name) for index, name in enumerate(tensors)),
    )
