"""Histograms of activations in one streaming pass, whatever the number of images.

Only the tensors that get a scale leave ONNX Runtime, a batch at a time, and are counted and dropped; what
stays is one histogram a tensor. Memory is that of one batch and of the graph, not of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from bbx.calibration.histograms import Histogram
from bbx.calibration.sessions import session
from bbx.errors import BbxError
from bbx.exporter.parts import giving
from bbx.process import progress

_ROWS = 2
"""Images in a run: a larger batch is hardly faster on a CPU, and its activations take memory."""


def collect(
    model: ModelProto,
    names: Sequence[str],
    batches: Iterable[Mapping[str, NDArray[np.generic]]],
    *,
    images: int | None = None,
) -> dict[str, Histogram]:
    """Count the magnitudes of float32 tensors over all batches.

    Args:
        model: as `exporter.onnx_graph.prepared` made it.
        names: inputs and activations of its main graph.
        batches: feeds, read one at a time.
        images: how many rows they have together, for the progress that is shown.

    Returns:
        A histogram of each name.

    Raises:
        BbxError: there is no batch, ONNX Runtime cannot run the graph, or a tensor held a NaN or an infinity:
            then the images or the network are broken, and no scale would be right.
    """
    given = {value.name for value in model.graph.input}
    inside = [name for name in names if name not in given]
    histograms = {name: Histogram() for name in names}
    counted = [histograms[name] for name in (*inside, *(name for name in names if name in given))]
    rows = 0
    with _inference(model, inside) as infer, ThreadPoolExecutor() as threads:
        for feeds in _in_parts(batches, model):
            arrays = [*infer(feeds), *(feeds[name] for name in names if name in given)]
            list(threads.map(lambda pair: pair[0].add(pair[1]), zip(counted, arrays, strict=True)))
            del arrays  # before the next ones are made
            rows += next((len(array) for array in feeds.values() if array.ndim), 1)
            progress("calibrate", rows / images if images else None, f"{rows} images")
            _refuse_broken(histograms, rows)
    if not rows:
        raise BbxError("Calibration needs at least one image.", hint="Name a folder: --calib DIR")
    return histograms


@contextmanager
def _inference(
    model: ModelProto, names: Sequence[str]
) -> Iterator[Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]]]:
    """Whatever gives these tensors; ONNX Runtime loads no graph without nodes, so nothing runs for none."""
    if not names:
        yield lambda feeds: ()
        return
    with session(giving(model, names), "calibration", inside=True) as opened:
        yield opened.run


def _in_parts(
    batches: Iterable[Mapping[str, NDArray[Any]]], model: ModelProto
) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Batches of `_ROWS` at most where the graph leaves the batch free: all activations are held at once."""
    leading = [value.type.tensor_type.shape.dim for value in model.graph.input]
    free = all(dims and not dims[0].HasField("dim_value") for dims in leading)
    for feeds in batches:
        size = max((len(array) for array in feeds.values() if array.ndim), default=1)
        if not free or size <= _ROWS:
            yield feeds
            continue
        for start in range(0, size, _ROWS):
            yield {name: array[start : start + _ROWS] for name, array in feeds.items()}


def _refuse_broken(histograms: Mapping[str, Histogram], rows: int) -> None:
    broken = [name for name, histogram in histograms.items() if not histogram.finite]
    if broken:
        raise BbxError(
            f"{len(broken)} tensors, the first of them {broken[0]!r}, hold a NaN or an infinity within the "
            f"first {rows} images; no scale would be right.",
            hint="Check the weights with `bbx export`, and the images for values that are not finite.",
        )
