"""bbx: from a PyTorch backbone and head to TorchScript, ONNX and TensorRT engines, with proof."""

from __future__ import annotations

__version__ = "0.1.0"
