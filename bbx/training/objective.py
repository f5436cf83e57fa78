"""What each task learns by: from images and targets to a loss, and from images to answers that are judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import detection as zoo
from torchvision.transforms import v2

from bbx.datasets import IGNORED
from bbx.models.build import Model
from bbx.models.classic.auxiliary import summed_loss
from bbx.training.options import TrainOptions


class Objective(nn.Module, ABC):
    """A network and its loss, which `forward` gives: so that one wrapper serves all tasks on several GPUs.

    Attributes:
        network: what learns, and whose state is kept; in torchvision's form where that has a loss of its own.
        outputs: names of what `answers` gives.
        outlines, keypoints: whether it learns from them, beside what every network of its task learns from.
    """

    outlines = False
    keypoints = False

    def __init__(self, network: nn.Module, deployed: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.outputs = outputs
        # Not as a submodule: it shares the network's parts, and each must be listed, and averaged, once.
        self._deployed = [deployed]

    @property
    def deployed(self) -> nn.Module:
        """The form that is evaluated and exported; it shares all that the network learns."""
        return self._deployed[0]

    @abstractmethod
    def forward(self, images: Tensor, targets: Any) -> Tensor:
        """The loss of a batch in training mode, a scalar; see `bbx.training.samples.Batch`."""

    def answers(self, images: Tensor) -> dict[str, Tensor]:
        """What the deployed form says of a batch, by name; it must be in evaluation mode."""
        given = self.deployed(images)
        values = given if isinstance(given, tuple | list) else (given,)
        return dict(zip(self.outputs, values, strict=True))

    def judged_loss(self, answers: dict[str, Tensor], targets: Any) -> Tensor | None:
        """The plain loss of answers; None where there is none without training mode."""
        return None


class Classify(Objective):
    """Cross-entropy, with label smoothing, mixup and auxiliary classifiers where they are wanted.

    Attributes:
        auxiliary_weight: of the loss of each auxiliary classifier that the network has.
    """

    auxiliary_weight = 0.0

    def __init__(self, model: Model, options: TrainOptions, classes: int) -> None:
        super().__init__(model.module, model.module, tuple(spec.name for spec in model.outputs))
        self._smoothing = options.label_smoothing
        self._mix = v2.MixUp(alpha=options.mixup, num_classes=classes) if options.mixup else None

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Objective.forward`."""
        if self._mix is not None:
            images, targets = self._mix(images, targets)
        return summed_loss(
            self.network(images),
            lambda logits: functional.cross_entropy(logits, targets, label_smoothing=self._smoothing),
            self.auxiliary_weight,
        )

    def judged_loss(self, answers: dict[str, Tensor], targets: Tensor) -> Tensor:
        """See `Objective.judged_loss`."""
        return functional.cross_entropy(answers["logits"].float(), targets)


class Segment(Objective):
    """Cross-entropy over the pixels that somebody judges."""

    def __init__(self, model: Model, options: TrainOptions) -> None:
        super().__init__(model.module, model.module, tuple(spec.name for spec in model.outputs))
        self._smoothing = options.label_smoothing

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Objective.forward`."""
        return _pixel_loss(self.network(images), targets, self._smoothing)

    def judged_loss(self, answers: dict[str, Tensor], targets: Tensor) -> Tensor:
        """See `Objective.judged_loss`."""
        return _pixel_loss(answers["logits"].float(), targets, 0.0)


def _pixel_loss(logits: Tensor, masks: Tensor, smoothing: float) -> Tensor:
    """The mean over judged pixels; zero, with a gradient, where no pixel is."""
    total = functional.cross_entropy(
        logits, masks, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum"
    )
    return total / (masks != IGNORED).sum().clamp(min=1)


class Detect(Objective):
    """torchvision's own losses of its detector, summed."""

    def __init__(self, model: Model) -> None:
        network: Any = getattr(model.reference, "network", None)
        super().__init__(network, model.module, tuple(spec.name for spec in model.outputs))
        self.outlines = isinstance(network, zoo.MaskRCNN)
        self.keypoints = isinstance(network, zoo.KeypointRCNN)

    def forward(self, images: Tensor, targets: Any) -> Tensor:
        """See `Objective.forward`."""
        losses: dict[str, Tensor] = self.network(list(images), targets)
        return torch.stack(list(losses.values())).sum()


def objective_for(model: Model, options: TrainOptions, classes: int) -> Objective:
    """The objective of the model's task."""
    match options.task:
        case "classification":
            return Classify(model, options, classes)
        case "segmentation":
            return Segment(model, options)
        case "detection":
            return Detect(model)
