"""Device buffers for one set of shapes of a TensorRT engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bbx.runners import device as cuda
from bbx.runners.base import Arrays


@dataclass(frozen=True, eq=False)
class Binding:
    """Device buffers for one set of shapes.

    Attributes:
        buffers: by tensor name, inputs and outputs.
        shapes: of the inputs.
        results: shape and dtype of each output.
    """

    buffers: dict[str, cuda.Buffer]
    shapes: dict[str, tuple[int, ...]]
    results: dict[str, tuple[tuple[int, ...], str]]

    @property
    def addresses(self) -> dict[str, int]:
        """Device pointers by tensor name."""
        return {name: buffer.address for name, buffer in self.buffers.items()}

    def empty(self) -> Arrays:
        """Host arrays for the outputs, not filled."""
        return {name: np.empty(shape, numpy_dtype(dtype)) for name, (shape, dtype) in self.results.items()}

    def download(self, stream: cuda.Stream) -> Arrays:
        """The outputs of the last run, in arrays that the caller owns."""
        arrays = self.empty()
        for name, array in arrays.items():
            self.buffers[name].download(array, stream)
        return arrays


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype of this name; ml_dtypes brings those that NumPy lacks."""
    if name in ("bfloat16", "float8_e4m3fn"):
        import ml_dtypes

        extra: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return extra
    return np.dtype(name)
