"""The inputs on which an artefact is compared with its reference: photographs and seeded noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bbx import images
from bbx.exporter.verify import Case
from bbx.images import DEFAULT_SIDE, noise_feeds
from bbx.types import Preprocess, Task, TensorSpec

_NOISE_SEED = 20_000


def parity_cases(
    inputs: tuple[TensorSpec, ...],
    preprocess: Preprocess | None,
    batches: Sequence[int],
    *,
    task: Task = "classification",
) -> list[Case]:
    """Photographs for each batch size, and noise: for each too, or once for the large images of other tasks.

    Args:
        inputs: of the network. One RGB image input gets photographs; any other gets noise only.
        preprocess: how an image becomes that input; None where nobody said, and then ImageNet's.
    """
    how = preprocess or guess_preprocess(inputs)
    cases = []
    for index, batch in enumerate(batches):
        if how is not None:
            pictures = images.photograph_batch(how, batch, start=index)
            cases.append(Case(batch, "photographs", {inputs[0].name: pictures}))
            if task != "classification" and index > 0:
                continue
        cases.append(Case(batch, "noise", noise_feeds(inputs, batch, seed=_NOISE_SEED + index)))
    return cases


def size_cases(inputs: tuple[TensorSpec, ...], preprocess: Preprocess) -> list[Case]:
    """Photographs at other sizes than the exported one, for a graph with dynamic height and width."""
    sizes = ((preprocess.height + 32, preprocess.width + 64), (preprocess.height + 64, preprocess.width))
    cases = []
    for height, width in sizes:
        how = replace(preprocess, height=height, width=width)
        pictures = images.photograph_batch(how, 1)
        cases.append(Case(1, f"photographs {height}x{width}", {inputs[0].name: pictures}))
    return cases


def guess_preprocess(inputs: tuple[TensorSpec, ...]) -> Preprocess | None:
    """ImageNet's preprocessing for a network with one RGB image input; None for any other."""
    if len(inputs) != 1 or inputs[0].dtype not in ("float32", "uint8") or len(inputs[0].shape) != 4:
        return None
    shape, dtype = inputs[0].shape, inputs[0].dtype
    layouts = {"NCHW": (shape[1], shape[2], shape[3]), "NHWC": (shape[3], shape[1], shape[2])}
    for layout, (channels, height, width) in layouts.items():
        if channels == 3:
            return Preprocess(
                height=height or DEFAULT_SIDE,
                width=width or DEFAULT_SIDE,
                layout="NCHW" if layout == "NCHW" else "NHWC",
                dtype="uint8" if dtype == "uint8" else "float32",
            )
    return None


def fixed_batch(inputs: tuple[TensorSpec, ...]) -> int | None:
    """The leading dimension that an input fixes; None where the batch is dynamic in all of them."""
    return next((spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] is not None), None)
