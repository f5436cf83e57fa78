"""Auxiliary classifiers: side branches that pass gradient to the middle of a network while it is trained.

`bbx.models.build.build` gives every network without them, so that no export, engine or evaluation has them.
Who trains one adds them and takes them off again:

    if isinstance(network, HasAuxiliaries):
        network.add_auxiliaries(num_classes)
    network.train()
    loss = summed_loss(network(images), lambda logits: cross_entropy(logits, labels), weight)

A backbone that is frozen learns nothing from them: leave them off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class HasAuxiliaries(Protocol):
    """A classifier that can be given auxiliary classifiers.

    With them, `forward` gives `(logits, auxiliary logits, …)`, each float [batch, num_classes], in training
    mode; in evaluation mode, and without them, the logits alone.

    Attributes:
        auxiliary_weight: of each auxiliary loss in the sum, where the loss of the logits has 1.
        auxiliaries: names of the submodules that they are, in the order of `forward`'s tuple: keys of a state
            dict that start with one of these and a dot belong to training only, and `bbx` loads such a state
            dict with or without them.
    """

    auxiliary_weight: float
    auxiliaries: tuple[str, ...]

    def add_auxiliaries(self, num_classes: int) -> None:
        """Put new auxiliary classifiers on, with weights from torch's generator and in the network's mode."""
        ...

    def remove_auxiliaries(self) -> None:
        """Take them off; nothing happens where there are none."""
        ...


def summed_loss(
    given: Tensor | tuple[Tensor, ...], loss: Callable[[Tensor], Tensor], weight: float
) -> Tensor:
    """The loss of what a network gave: of its logits, plus `weight` times that of each auxiliary's.

    Args:
        given: by the network: logits, or a tuple with the logits first.
        loss: from logits to a scalar.
        weight: the network's `auxiliary_weight`; without effect on plain logits.
    """
    if isinstance(given, Tensor):
        return loss(given)
    logits, *auxiliary = given
    total = loss(logits)
    for side in auxiliary:
        total = total + weight * loss(side)
    return total
