"""What a detector's last step is told, as plain data. Nothing here imports a heavy library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class DetectionOptions:
    """How candidates become detections.

    Attributes:
        score_threshold: a box of a lower score is no candidate.
        iou_threshold: overlap above which the box of the lower score is suppressed, within a class.
        candidates: boxes of all classes that enter suppression, the best scored first (K).
        detections: rows of the outputs (D).
        lowering: `static` for ordinary operators only; `onnx` for the standard operators `RoiAlign` and
            `NonMaxSuppression`.
    """

    score_threshold: float
    iou_threshold: float
    candidates: int
    detections: int
    lowering: Literal["static", "onnx"] = "static"
