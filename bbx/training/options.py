"""The options of a training run, as plain data: validated, compared on resuming, sent to a child process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from bbx.errors import UsageError, did_you_mean
from bbx.models.registry import check_options, task_of
from bbx.models.spec import ModelSpec
from bbx.types import Task

Amp = Literal["fp16", "bf16"]
Augment = Literal["none", "light", "default", "strong"]
Schedule = Literal["cosine", "linear", "step", "constant"]

AMPS: tuple[Amp, ...] = get_args(Amp)
AUGMENTS: tuple[Augment, ...] = get_args(Augment)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)

BATCH_SIZES: dict[Task, int] = {"classification": 32, "detection": 4, "segmentation": 8}
"""Images a step and process, where nobody says."""

RATES = {"adamw": 5e-4, "adam": 5e-4, "sgd": 1e-2, "lion": 1e-4}
"""Learning rates of the usual optimisers, where nobody says; of another it must be said."""

WEIGHT_DECAYS = {"sgd": 1e-4}
"""Where nobody says; 0.05 with any other optimiser."""

HELD_OUT = 0.2
"""Share of data without a part of its own for it that epochs are judged by."""

_FREE_TO_CHANGE = ("workers", "device", "log_dir", "save_every")
"""Options that a resumed run may have other than before."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What is trained, on what, and how.

    Attributes:
        spec: the model; its `num_classes` is that of the data. Its seed is that of the run too.
        data: a folder, a COCO file or `torchvision:NAME`; see `bbx.datasets.open_dataset`.
        val: by what epochs are judged: a share to hold out (`0.2`), a part of the data (`test`), or other
            data. None takes the part `val` where there is one, else a share of `HELD_OUT`.
        epochs: how often each image is seen.
        batch_size: images a step and process; None for that of `BATCH_SIZES`.
        lr: peak learning rate, of the head; None for that of `RATES`.
        optimizer: as timm calls it.
        schedule: of the learning rate after the warm-up, over steps.
        warmup: epochs in which the rate rises from a hundredth to `lr`; None for a tenth of all, at most one.
        weight_decay: not of biases and norms; None for that of `WEIGHT_DECAYS`.
        label_smoothing: share of the target that is spread over all classes; not of a detector.
        mixup: alpha of mixup (Zhang et al., 2018); 0 for none. Classification only.
        freeze_backbone: only the head, and a neck, is trained.
        unfreeze: of a frozen backbone, the last blocks that are trained nevertheless.
        freeze_until: everything up to this block of the backbone is frozen.
        backbone_lr_scale: factor of the learning rate below the head.
        layer_decay: factor of the learning rate from a block to the one below it.
        amp: type that layers compute in, where that is safe.
        ema: decay of the average of the weights over steps, which is then what is judged and kept.
        augment: see `bbx.training.augment`.
        patience: epochs without a better metric after which training ends.
        workers: processes that read images; None for one less than there are CPUs, at most 8.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        log_dir: where TensorBoard finds it; None for the JSON lines only.
        save_every: seconds after which the state is saved within an epoch.

    Raises:
        UsageError: a value that an option cannot have, or two that do not go together.
    """

    spec: ModelSpec
    data: str
    val: str | None = None
    epochs: int = 10
    batch_size: int | None = None
    lr: float | None = None
    optimizer: str = "adamw"
    schedule: Schedule = "cosine"
    warmup: float | None = None
    weight_decay: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    freeze_backbone: bool = False
    unfreeze: int | None = None
    freeze_until: str | None = None
    backbone_lr_scale: float = 1.0
    layer_decay: float | None = None
    amp: Amp | None = None
    ema: float | None = None
    augment: Augment = "default"
    patience: int | None = None
    workers: int | None = None
    device: str = "auto"
    log_dir: str | None = None
    save_every: float = 600.0

    def __post_init__(self) -> None:
        for option, least in _LEAST.items():
            _require(self, option, lambda value, least=least: value >= least, f"at least {least}")
        for option in ("lr", "backbone_lr_scale"):
            _require(self, option, lambda value: value > 0, "above 0")
        for option in ("label_smoothing", "ema"):
            _require(self, option, lambda value: 0 <= value < 1, "at least 0 and below 1")
        _require(self, "layer_decay", lambda value: 0 < value <= 1, "above 0 and at most 1")
        for option, known in (("schedule", SCHEDULES), ("augment", AUGMENTS), ("amp", (None, *AMPS))):
            if getattr(self, option) not in known:
                asked, names = getattr(self, option), [name for name in known if name]
                raise UsageError(f"There is no --{option} {asked!r}.", hint=did_you_mean(str(asked), names))
        self._refuse_contradictions()
        if self.task == "classification" and self.images_a_step < 2:
            raise UsageError(
                "A batch of one image has no statistics to normalise by.",
                hint="Type: --batch-size 2, or more.",
            )

    def _refuse_contradictions(self) -> None:
        if self.warmup is not None and self.warmup >= self.epochs:
            raise UsageError(f"--warmup {self.warmup:g} leaves nothing of {self.epochs} epochs.")
        if self.freeze_until is not None and (self.freeze_backbone or self.unfreeze is not None):
            raise UsageError(
                "--freeze-until does not go with --freeze-backbone or --unfreeze.", hint="Use one of them."
            )
        if self.layer_decay is not None and self.backbone_lr_scale != 1.0:
            raise UsageError("--layer-decay does not go with --backbone-lr-scale.", hint="Leave one out.")
        if self.mixup and self.task != "classification":
            raise UsageError(f"--mixup is for classifiers, and this is {self.task}.", hint="Leave it out.")
        if self.label_smoothing and self.task == "detection":
            raise UsageError("--label-smoothing is not for detectors.", hint="Leave it out.")
        if self.spec.head == "none":
            raise UsageError("--head none has no classes to learn.", hint="Type: --head linear")

    @property
    def task(self) -> Task:
        """What the model's outputs mean."""
        return _task_of(self.spec)

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""
        return self.spec.seed

    @property
    def images_a_step(self) -> int:
        """Batch size of one process."""
        return self.batch_size or BATCH_SIZES[self.task]

    @property
    def rate(self) -> float:
        """Peak learning rate.

        Raises:
            UsageError: there is none for this optimiser, and none was given.
        """
        known = RATES.get(self.optimizer.lower())
        if self.lr is None and known is None:
            raise UsageError(f"--optimizer {self.optimizer} needs a learning rate.", hint="Type: --lr 1e-3")
        return self.lr if self.lr is not None else known or 0.0

    @property
    def decay(self) -> float:
        """Weight decay."""
        usual = WEIGHT_DECAYS.get(self.optimizer.lower(), 0.05)
        return usual if self.weight_decay is None else self.weight_decay

    @property
    def warmup_epochs(self) -> float:
        """Epochs of warm-up."""
        return min(1.0, self.epochs / 10) if self.warmup is None else self.warmup

    def to_request(self) -> dict[str, Any]:
        """The options as plain JSON; `from_request` gives them back."""
        return {**asdict(self), "spec": self.spec.to_request()}

    @classmethod
    def from_request(cls, request: Mapping[str, Any]) -> TrainOptions:
        """The options that `to_request` wrote."""
        return cls(**{**request, "spec": ModelSpec.from_request(request["spec"])})


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Options by which two requests of `TrainOptions` are different runs, as they are typed."""
    found = []
    for option in (field.name for field in fields(TrainOptions)):
        if option in _FREE_TO_CHANGE:
            continue
        pairs = before["spec"].items() if option == "spec" else [(option, before[option])]
        other = now["spec"] if option == "spec" else now
        for name, value in pairs:
            if _as_json(value) != _as_json(other[name]):
                flag = "MODEL" if name == "name" else "--" + name.replace("_", "-")
                found.append(f"{flag} {other[name]} (it was {value})")
    return found


def _as_json(value: Any) -> Any:
    """A value as JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


@cache
def _task_of(spec: ModelSpec) -> Task:
    """Asked at every step, and found in the sources of a library where the name has a prefix."""
    return task_of(check_options(spec))


_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "warmup": 0,
    "weight_decay": 0,
    "mixup": 0,
    "unfreeze": 0,
    "patience": 1,
    "workers": 0,
    "save_every": 0,
}


def _require(options: TrainOptions, option: str, fits: Any, what: str) -> None:
    value = getattr(options, option)
    if value is not None and not fits(value):
        flag = "--" + option.replace("_", "-")
        raise UsageError(f"{flag} must be {what}, and is {value:g}.", hint="Type another value.")


def default_out(spec: ModelSpec) -> Path:
    """The folder of a run that was not named."""
    return Path("runs") / spec.slug
