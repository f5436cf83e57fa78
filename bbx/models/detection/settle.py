"""Random heads that find something, so that parity of a detector without training is evidence of something.

A freshly initialised head scores every box alike and below every threshold: the answer to any image is
"nothing", and agreeing with nothing proves nothing. So, as in data-dependent initialisation (Krähenbühl et
al., 2016), each last layer is scaled until its outputs on photographs have a given spread, and the bias of
the class scores is moved until a given number of candidates a photograph passes the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import detection as zoo

from bbx.images import photograph_batch
from bbx.models.detection.options import DetectionOptions
from bbx.types import Preprocess

CANDIDATES = 60
"""Boxes that pass the score threshold, of all classes together, in the photograph with the fewest."""

_LOGIT_SPREAD = 3.0
_OFFSET_SPREAD = 0.5
_IMAGES = 4
_SPREAD_IMAGES = 2

_Layer = nn.Linear | nn.Conv2d


def settle_scores(
    network: Any, module: nn.Module, how: DetectionOptions, preprocess: Preprocess
) -> tuple[str, ...]:
    """Scale and shift the last layers of a detector with random weights, in place.

    Args:
        network: the detector of torchvision.
        module: its deployable form, through which images are sent; it shares the layers.

    Returns:
        What was done, in words.
    """
    images = torch.from_numpy(photograph_batch(preprocess, _IMAGES))
    # Stage by stage: what the second is shown depends on the first.
    for stage in _stages(network):
        given = _given(module, list(stage.spreads), images[:_SPREAD_IMAGES], until=stage.last)
        for (layer, spread), values in zip(stage.spreads.items(), given, strict=True):
            _scale(layer, spread / float(values.std()))
    last = _stages(network)[-1].last
    layers, classes, is_softmax = _scores(network)
    threshold = how.score_threshold
    if isinstance(network, zoo.FCOS):
        # The score is the root of a product with a centre-ness of about a half.
        threshold = threshold**2 / 0.5
    shifts = []
    for image in images:
        given = _given(module, layers, image[None], until=last)
        logits = torch.cat([rows.reshape(-1, classes) for rows in given])
        shifts.append(_background(logits, threshold) if is_softmax else _bias(logits, threshold))
    # The image with the fewest candidates has that many, and the others have more.
    shift = min(shifts) if is_softmax else max(shifts)
    for layer in layers:
        _shift(layer, shift, classes if is_softmax else 1)
    return (
        f"scores of the random heads: moved until at least {CANDIDATES} boxes a photograph are candidates",
    )


class _Stage(NamedTuple):
    """The layers that score or move boxes, with the spread that each is given.

    Attributes:
        last: the part that has called all of them when it is left, once an image batch; None where there is
            none, and the whole network has to run.
    """

    spreads: dict[_Layer, float]
    last: nn.Module | None


def _stages(network: Any) -> list[_Stage]:
    if isinstance(network, zoo.FasterRCNN):
        rpn, box = network.rpn.head, network.roi_heads.box_predictor
        return [
            _Stage({rpn.cls_logits: _LOGIT_SPREAD, rpn.bbox_pred: _OFFSET_SPREAD}, rpn),
            _Stage({box.cls_score: _LOGIT_SPREAD, box.bbox_pred: 1.0}, box),
        ]
    scores = dict.fromkeys(_scores(network)[0], _LOGIT_SPREAD)
    moves = dict.fromkeys(_last_layers(network.head.regression_head, "bbox_reg"), _OFFSET_SPREAD)
    return [_Stage(scores | moves, None)]


def _scores(network: Any) -> tuple[list[_Layer], int, bool]:
    """The layers that score classes, the number of classes, and whether scores are a softmax over them."""
    if isinstance(network, zoo.FasterRCNN):
        layer = network.roi_heads.box_predictor.cls_score
        return [layer], layer.out_features, True
    head = network.head.classification_head
    classes = head.num_columns if isinstance(network, zoo.ssd.SSD) else head.num_classes
    return _last_layers(head, "cls_logits"), classes, isinstance(network, zoo.ssd.SSD)


def _last_layers(head: Any, name: str) -> list[_Layer]:
    """A head's last layer of this name; of SSD's heads, one for each map."""
    if hasattr(head, name):
        return [getattr(head, name)]
    return [part if isinstance(part, nn.Conv2d) else part[-1] for part in head.module_list]


class _Enough(Exception):
    """Ends a forward pass of which everything that is wanted has been seen."""


def _given(
    module: nn.Module, layers: list[_Layer], images: Tensor, *, until: nn.Module | None
) -> list[Tensor]:
    """What each of these layers gives on the images: all calls of a layer, rows of channels [N, C].

    Args:
        until: the part after which nothing is run any more; see `_Stage`.
    """
    seen: dict[int, list[Tensor]] = {id(layer): [] for layer in layers}

    def keep(layer: nn.Module, _: Any, given: Tensor) -> None:
        seen[id(layer)].append(given.movedim(1, -1).flatten(0, -2))

    def end(*_: Any) -> None:
        raise _Enough

    ends = [] if until is None else [until]
    with suppress(_Enough), _hooked(layers, keep), _hooked(ends, end), torch.no_grad():
        module(images)
    return [torch.cat(seen[id(layer)]) for layer in layers]


@contextmanager
def _hooked(parts: Sequence[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    handles = [part.register_forward_hook(hook) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _background(logits: Tensor, threshold: float) -> float:
    """What to add to the background's logit so that `CANDIDATES` softmax scores pass: found by bisection."""
    low, high = -50.0, 50.0
    others = torch.logsumexp(logits[:, 1:], dim=1)
    for _ in range(40):
        middle = (low + high) / 2
        total = torch.logaddexp(others, logits[:, 0] + middle)
        passed = int((logits[:, 1:] - total[:, None] > math.log(max(threshold, 1e-6))).sum())
        low, high = (middle, high) if passed > CANDIDATES else (low, middle)
    return high


def _bias(logits: Tensor, threshold: float) -> float:
    """What to add to every logit so that `CANDIDATES` sigmoid scores pass."""
    wanted = math.log(threshold / (1 - threshold)) if threshold > 0 else -10.0
    last = torch.topk(logits.flatten(), min(CANDIDATES, logits.numel())).values[-1]
    return wanted - float(last)


def _scale(layer: _Layer, factor: float) -> None:
    with torch.no_grad():
        layer.weight.mul_(factor)


def _shift(layer: _Layer, value: float, classes: int) -> None:
    """Add to the bias of the first of every `classes` channels: the background's, or all where it is 1."""
    with torch.no_grad():
        assert layer.bias is not None  # the last layers of detectors have one
        layer.bias[::classes] += value
