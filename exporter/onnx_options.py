"""How to export to ONNX, checked before anything is built. Nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bbx.errors import UsageError

OnnxExporter = Literal["auto", "dynamo", "torchscript"]

MIN_OPSET, MAX_OPSET = 18, 23
"""What both exporters can write and TensorRT's parsers read."""


FLOAT32_MARK = "bbx.float32_because"
"""Key of the node metadata that keeps a node in FP32 in a typed graph; its value is the reason."""


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """How to export.

    Attributes:
        batch: a fixed batch size, or None for a dynamic one.
        dynamic_size: height and width are dynamic too.
        opset: ONNX opset, or None for the exporter's own choice.
        exporter: `dynamo` (on `torch.export`), `torchscript` (tracing), or `auto` for the first that works.
    """

    batch: int | None = None
    dynamic_size: bool = False
    opset: int | None = None
    exporter: OnnxExporter = "auto"

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"--batch {self.batch} is not a batch size.", hint="Type --batch 1 or more.")
        if self.opset is not None and not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise UsageError(
                f"--opset {self.opset} cannot be written.", hint=f"Type one of {MIN_OPSET} to {MAX_OPSET}."
            )
