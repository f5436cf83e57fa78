"""The question that `bbx bisect` asks, as plain data that can be sent to a child process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bbx.errors import UsageError
from bbx.pipeline.steps import Step, graph_hashes
from bbx.types import Format

DEFAULT_EVALUATIONS = 64
"""Graphs that are run at most."""


@dataclass(frozen=True, slots=True)
class RepairStep(Step):
    """A graph in fewer bits to one that agrees with its reference, as few nodes as possible put back to FP32.

    Attributes:
        source: the graph that is too far from the reference.
        reference: the FP32 graph.
        images: to compare on, a folder for example; None for those that the graph's calibration held out, or
            bbx's photographs.
        tolerance: largest relative L2, or for a detector the share of detections that may differ; None for
            the tolerance of the graph's precision.
        evaluations: graphs that are run at most.
    """

    task: ClassVar[str] = "bbx.pipeline.bisecting:bisect_task"

    source: Path
    reference: Path
    images: Path | None = None
    tolerance: float | None = None
    evaluations: int = DEFAULT_EVALUATIONS

    def __post_init__(self) -> None:
        for name in ("source", "reference", "images"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, Path(value).absolute())
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise UsageError(
                f"--tolerance must be above 0 and below 1, and is {self.tolerance:g}.",
                hint="Type: --tolerance 0.1, for example.",
            )
        if self.evaluations < 3:
            raise UsageError(
                f"--evaluations must be 3 at least, and is {self.evaluations}: two are the control runs.",
                hint=f"Leave it out for {DEFAULT_EVALUATIONS}.",
            )

    @property
    def stem(self) -> str:
        return f"{self.source.stem}.repaired"

    @property
    def result_format(self) -> Format:
        return "onnx"

    @property
    def tools(self) -> tuple[str, ...]:
        return ("onnx", "onnxruntime", "numpy", "pillow")

    @property
    def reusable(self) -> bool:
        # It is a question: the answer may be that there is nothing to repair.
        return False

    def dependencies(self) -> dict[str, Any]:
        return {"source": graph_hashes(self.source), "reference": graph_hashes(self.reference)}
