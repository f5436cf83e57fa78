"""Auxiliary classifiers for the networks that were published with them, while they are trained."""

from __future__ import annotations

from torch import nn
from torchvision.models import GoogLeNet
from torchvision.models.googlenet import InceptionAux

from bbx.models.classic.auxiliary import HasAuxiliaries
from bbx.models.construct import seeded

_WEIGHT = 0.3
"""Of each auxiliary loss in the sum (Szegedy et al., 2015, section 5)."""

_CHANNELS = {"aux1": 512, "aux2": 528}
"""Of the maps that GoogLeNet's auxiliary classifiers look at."""


def add_auxiliaries(network: nn.Module, classes: int, seed: int) -> float:
    """Put auxiliary classifiers on a network that has a place for them.

    In training mode it then gives a tuple, the logits first; in evaluation mode the logits, as before. `bbx`
    loads a state dict that has them with or without them.

    Returns:
        The weight of each of their losses; 0 where the network has no place for any.
    """
    with seeded(seed):
        if isinstance(network, HasAuxiliaries):
            network.add_auxiliaries(classes)
            return network.auxiliary_weight
        if isinstance(network, GoogLeNet):
            for name, channels in _CHANNELS.items():
                setattr(network, name, InceptionAux(channels, classes))
            network.aux_logits = True
            return _WEIGHT
    return 0.0
