"""How bbx's own operators are written in ONNX: with the standard operators that runtimes have fast code for.

Detectors in the `onnx` lowering hold `bbx::suppress` and `bbx::roi_align`; these are their translations for
`torch.onnx.export(custom_translation_table=…)`. The `static` lowering has neither and needs no translation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import FLOAT, INT64, opset18

# Importing them defines torch.ops.bbx.roi_align and torch.ops.bbx.suppress.
from bbx.models.detection import roi_align as _defines_roi_align  # noqa: F401
from bbx.models.detection import suppression as _defines_suppress  # noqa: F401

# The annotations of onnxscript's operators do not compose: what one returns, the next does not take. Those of
# the translations' parameters are what the exporter tells inputs from attributes by.
op: Any = opset18

_ALL = 2**31 - 1


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table for torch's ONNX exporter, from each of bbx's operators to its ONNX form."""
    return {
        torch.ops.bbx.suppress.default: _suppress,
        torch.ops.bbx.roi_align.default: _roi_align,
    }


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _filled(value: Any, dtype: type[np.generic]) -> onnx.TensorProto:
    """What `ConstantOfShape` fills a tensor with."""
    return onnx.numpy_helper.from_array(np.array([value], dtype=dtype))


def _suppress(boxes: FLOAT, scores: FLOAT, labels: INT64, threshold: float) -> Any:
    """`NonMaxSuppression` with one class a label.

    A box has its score in its own class and -1 in every other, below the score threshold of zero, so
    classes do not see each other's boxes, and nothing has to be moved apart by offsets that cost precision.
    """
    count = op.Add(op.ReduceMax(labels, keepdims=0), op.Constant(value_int=1))
    classes = op.Range(
        op.Constant(value_int=0), op.Max(count, op.Constant(value_int=1)), op.Constant(value_int=1)
    )
    own = op.Equal(op.Unsqueeze(labels, _ints(1)), op.Unsqueeze(classes, _ints(0, 2)))
    by_class = op.Where(own, op.Unsqueeze(scores, _ints(1)), op.Constant(value_float=-1.0))
    selected = op.NonMaxSuppression(
        boxes, by_class, _ints(_ALL), op.Constant(value_floats=[threshold]), op.Constant(value_floats=[0.0])
    )
    kept = op.Gather(selected, _ints(0, 2), axis=1)
    none = op.ConstantOfShape(op.Shape(scores), value=_filled(False, np.bool_))
    true = op.ConstantOfShape(op.Shape(kept, start=0, end=1), value=_filled(True, np.bool_))
    return op.ScatterND(none, kept, true)


def _roi_align(
    maps: Sequence[FLOAT],
    boxes: FLOAT,
    *,
    strides: Sequence[float],
    limits: Sequence[float],
    size: int,
    sampling: int,
) -> Any:
    """One `RoiAlign` a level, on the boxes of that level, put back in the boxes' order."""
    shape = op.Shape(boxes, start=0, end=2)
    images, each = op.Shape(boxes, start=0, end=1), op.Shape(boxes, start=1, end=2)
    flat = op.Reshape(boxes, _ints(-1, 4))
    numbers = op.Range(op.Constant(value_int=0), op.Squeeze(images), op.Constant(value_int=1))
    owners = op.Reshape(op.Expand(op.Unsqueeze(numbers, _ints(1)), shape), _ints(-1))
    level = _level(flat, limits)
    found, pooled = [], []
    for number, (cells, stride) in enumerate(zip(maps, strides, strict=True)):
        mine = op.Squeeze(op.NonZero(op.Equal(level, op.Constant(value_int=number))), _ints(0))
        found.append(mine)
        pooled.append(
            op.RoiAlign(
                cells,
                op.Gather(flat, mine, axis=0),
                op.Gather(owners, mine, axis=0),
                coordinate_transformation_mode="output_half_pixel",
                mode="avg",
                output_height=size,
                output_width=size,
                sampling_ratio=sampling,
                spatial_scale=1 / stride,
            )
        )
    rows, order = op.Concat(*pooled, axis=0), op.Concat(*found, axis=0)
    count = op.Size(order)
    where = op.ScatterND(
        op.Expand(_ints(0), op.Unsqueeze(count, _ints(0))),
        op.Unsqueeze(order, _ints(1)),
        op.Range(op.Constant(value_int=0), count, op.Constant(value_int=1)),
    )
    grid = op.Concat(images, each, op.Shape(maps[0], start=1, end=2), _ints(size, size), axis=0)
    return op.Reshape(op.Gather(rows, where, axis=0), grid)


def _level(flat: FLOAT, limits: Sequence[float]) -> Any:
    """int64 [N]: how many of the limits a box's area reaches."""
    first, last = op.Slice(flat, _ints(0), _ints(2), _ints(1)), op.Slice(flat, _ints(2), _ints(4), _ints(1))
    sides = op.Sub(last, first)
    area = op.Mul(
        op.Gather(sides, op.Constant(value_int=0), axis=1), op.Gather(sides, op.Constant(value_int=1), axis=1)
    )
    level = op.Cast(op.Sub(area, area), to=onnx.TensorProto.INT64)
    for limit in limits:
        level = op.Add(
            level, op.Cast(op.GreaterOrEqual(area, op.Constant(value_float=limit)), to=onnx.TensorProto.INT64)
        )
    return level
