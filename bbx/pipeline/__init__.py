"""From a model's name or a file to a proven artefact: one step an arrow of the data flow.

    ExportStep   module -> ONNX, TorchScript or pt2
    QuantizeStep ONNX -> ONNX with Q/DQ nodes, INT8 or FP8
    TypedStep    ONNX -> ONNX whose tensors are FP16 or BF16
    EngineStep   ONNX -> TensorRT engine

A step is plain data. `ensure` reuses what it would give or has a child process make it.
"""

from __future__ import annotations

from bbx.pipeline.ensure import Made, ensure
from bbx.pipeline.quantize_step import QuantizeStep
from bbx.pipeline.steps import EngineStep, ExportStep, Step, TypedStep

__all__ = ["EngineStep", "ExportStep", "Made", "QuantizeStep", "Step", "TypedStep", "ensure"]
