"""The step from an FP32 graph to a quantised one, as plain data."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from bbx.artifact import sha256_of
from bbx.calibration.data.options import CalibrationOptions
from bbx.calibration.methods import AUTO, RefineStep, require_method, require_refinements
from bbx.errors import UsageError
from bbx.pipeline.steps import Step, graph_hashes
from bbx.types import Format


@dataclass(frozen=True, slots=True)
class QuantizeStep(Step):
    """An FP32 ONNX graph to one with Q/DQ nodes.

    Attributes:
        source: the FP32 graph.
        precision: `int8` or `fp8`.
        data: the images to calibrate with.
        method: `auto`, or one method for all activations; see `bbx.calibration.thresholds`.
        max_drop: by how much the task's measure may fall, 0..1; None to take what comes.
        refine: what is done to the weights beyond rounding them, in this order.
        keep: patterns of names of layers to leave in floating point.
        scales: a file of scales to use instead of calibrated ones, where it names a tensor.
    """

    task: ClassVar[str] = "bbx.pipeline.quantize:quantize_task"

    source: Path
    precision: Literal["int8", "fp8"] = "int8"
    data: CalibrationOptions = field(default_factory=CalibrationOptions)
    method: str = "auto"
    max_drop: float | None = None
    refine: tuple[RefineStep, ...] = ()
    keep: tuple[str, ...] = ()
    scales: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", Path(self.source).absolute())
        object.__setattr__(self, "keep", tuple(self.keep))
        object.__setattr__(self, "refine", tuple(self.refine))
        if self.scales is not None:
            object.__setattr__(self, "scales", Path(self.scales).absolute())
        source, evaluation = map(_absolute, (self.data.source, self.data.evaluation))
        object.__setattr__(self, "data", replace(self.data, source=source, evaluation=evaluation))
        if self.method != AUTO:
            require_method(self.method)
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            raise UsageError(
                f"--max-drop is {self.max_drop:.1%}, and must be between 0 % and 100 %.",
                hint="Type it like 0.5%.",
            )
        require_refinements(self.refine)

    @property
    def stem(self) -> str:
        return f"{self.source.stem}.{self.precision}"

    @property
    def result_format(self) -> Format:
        return "onnx"

    @property
    def tools(self) -> tuple[str, ...]:
        return ("onnx", "onnxscript", "onnxruntime", "numpy", "pillow")

    def dependencies(self) -> dict[str, Any]:
        found: dict[str, Any] = {"graph": graph_hashes(self.source)}
        for name, path in (("calib", self.data.source), ("evaluation", self.data.evaluation)):
            if path is not None:
                found[name] = _hashes(Path(path))
        if self.scales is not None and self.scales.is_file():
            found["scales"] = sha256_of(self.scales)
        return found

    def to_request(self) -> dict[str, Any]:
        scales = None if self.scales is None else str(self.scales)
        return {**Step.to_request(self), "scales": scales}

    @classmethod
    def from_request(cls, request: dict[str, Any]) -> QuantizeStep:
        return cls(**{**request, "data": CalibrationOptions(**request["data"])})


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def _hashes(path: Path) -> dict[str, str]:
    """Hash of every file that calibration data hangs on, by its place relative to what was named."""
    from bbx.calibration.data.named import files_of  # which imports NumPy

    start = path if path.is_dir() else path.parent
    return {os.path.relpath(file, start): sha256_of(file) for file in files_of(path)}
