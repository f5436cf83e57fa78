"""The vocabulary that every part of bbx shares. Nothing here imports a heavy library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

SCHEMA = "bbx/1"
"""Version of every JSON document that bbx prints or writes."""

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
Format = Literal["onnx", "torchscript", "pt2", "engine"]
Flavor = Literal["tensorrt", "rtx"]
Task = Literal["classification", "detection", "segmentation"]
Lowering = Literal["auto", "static", "onnx"]
InputKind = Literal["float32", "uint8"]
ParityVerdict = Literal["pass", "fail", "inconclusive"]
PrecisionVerdict = Literal["pass", "fail"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FORMATS: tuple[Format, ...] = get_args(Format)

BYTES_PER_ELEMENT: dict[str, int] = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
}
"""Size in bytes of one element, by dtype name (NumPy's names, and ml_dtypes' where NumPy has none)."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of one input or output.

    Attributes:
        name: as the artefact knows it.
        dtype: NumPy's name (`float32`, `uint8`, …), or `bfloat16`.
        shape: one entry a dimension; `None` where the dimension is dynamic.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if self.dtype not in BYTES_PER_ELEMENT:
            raise ValueError(f"unknown dtype {self.dtype!r} of tensor {self.name!r}")
        # JSON gives a list back; a spec must compare equal after a round trip.
        object.__setattr__(self, "shape", tuple(self.shape))

    def concrete(self, batch: int) -> tuple[int, ...]:
        """The shape with the leading dimension set to `batch`.

        Raises:
            ValueError: a dimension other than the first is dynamic.
        """
        head, *rest = self.shape
        if any(size is None for size in rest):
            raise ValueError(f"{self.name} has dynamic dimensions beyond the batch: {self.shape}")
        return (batch if head is None else head, *(size for size in rest if size is not None))


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a decoded RGB image becomes one row of the network's input.

    `fit` says how the image gets the size `height` × `width`:

    - `crop`: resized so that its shorter side is `round(min(height, width) / crop_pct)`, then cropped at
      the centre;
    - `stretch`: resized to that size, whatever its proportions;
    - `letterbox`: resized by the largest factor at which it fits, laid at the top left corner, and the rest
      filled with `mean`, rounded to whole values.

    Then, unless `dtype` is `uint8`, values are divided by 255, reduced by `mean` and divided by `std` (both
    per RGB channel, for values in 0..1). With `uint8` that arithmetic is part of the artefact.
    """

    height: int
    width: int
    fit: Literal["crop", "stretch", "letterbox"] = "crop"
    crop_pct: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    dtype: InputKind = "float32"
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"image size must be positive, got {self.height}x{self.width}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct must be in (0, 1], got {self.crop_pct}")
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of the network's input, with `None` for the batch."""
        if self.layout == "NHWC":
            return (None, self.height, self.width, 3)
        return (None, 3, self.height, self.width)


@dataclass(frozen=True, slots=True)
class Postprocess:
    """What the outputs mean, beyond their names; the manifest carries it.

    Attributes:
        task: `classification`: `logits` of each class, or `features`. `detection`: `boxes`, `scores`,
            `labels`, `num_detections`, `saturated`, and what else the model finds, padded. `segmentation`:
            `logits` of each class and pixel, or the `labels` of the best.
        num_classes: of the head; for detection and segmentation with the background, which is class 0.
        score_threshold: detection: below it nothing is reported.
        iou_threshold: detection: boxes of one class that overlap more are suppressed.
        candidates: detection: boxes that enter suppression, at most.
        detections: detection: rows of the outputs.
        lowering: detection: `static` or `onnx`.
        classes: the name of each class, in the network's numbering; None where nobody said.
    """

    task: Task
    num_classes: int | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    candidates: int | None = None
    detections: int | None = None
    lowering: Lowering | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None:
            # JSON gives a list back; a value must compare equal after a round trip.
            object.__setattr__(self, "classes", tuple(self.classes))
