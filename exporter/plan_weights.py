"""Which bytes of a plan are which weights: evidence of precision that needs no GPU and no TensorRT.

A plan stores weights uncompressed, in the graph's order of elements or with a convolution's channels last,
and may join or cut tensors. So short runs of each initialiser are looked for in the plan, in every
encoding; the share of runs that is found says how much of the tensor is there in that encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

_ENCODINGS = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_STORED_AS_THEY_ARE = {
    int(TensorProto.INT8): "int8",
    int(TensorProto.FLOAT8E4M3FN): "float8_e4m3fn",
}
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_RUN_BYTES = 16
_RUNS = 32
_SMALLEST = 1024
"""Elements below which a tensor is not looked for: biases are merged and folded, and weigh nothing."""
_CHUNK_BYTES = 1 << 24
_TABLE_BITS = 22
"""Of the table that rules words out: 4 MiB, which stays in a processor's cache."""
_KEY = np.dtype("<u8")


@dataclass(frozen=True, slots=True)
class PlanWeights:
    """Weights of a graph found in a plan.

    Attributes:
        found: bytes by the dtype they are stored in.
        missing: bytes, as the graph stores them, that were found in no encoding.
    """

    found: dict[str, int]
    missing: int


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Runs of one tensor in one encoding and one order of elements; `runs` is uint8 [count, _RUN_BYTES]."""

    tensor: int
    dtype: str
    runs: NDArray[np.uint8]
    nbytes: int


def weights_in_plan(model: ModelProto, plan: bytes | memoryview) -> PlanWeights:
    """Look for the large initialisers of an ONNX graph in the engine that was built from it.

    Floating-point weights are looked for as float32, float16 and bfloat16, quantised ones as they are.
    Tensors whose runs are all alike (a constant fill) are not counted.
    """
    tensors = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) >= _SMALLEST]
    candidates = [entry for index, tensor in enumerate(tensors) for entry in _candidates(index, tensor)]
    present = _present(np.concatenate([c.runs for c in candidates]) if candidates else None, plan)
    best: dict[int, tuple[float, str, int]] = {}
    position = 0
    for entry in candidates:
        share = float(np.mean(present[position : position + len(entry.runs)]))
        position += len(entry.runs)
        best[entry.tensor] = max(best.get(entry.tensor, (0.0, "", 0)), (share, entry.dtype, entry.nbytes))
    found: dict[str, int] = {}
    missing = 0
    for index, (share, dtype, nbytes) in best.items():
        if share > 0:
            found[dtype] = found.get(dtype, 0) + round(share * nbytes)
        missing += round((1 - share) * len(tensors[index].raw_data))
    return PlanWeights(found, missing)


def _candidates(index: int, tensor: TensorProto) -> Iterator[_Candidate]:
    as_is = _STORED_AS_THEY_ARE.get(tensor.data_type)
    if as_is is None and tensor.data_type not in _FLOATS:
        return
    values = numpy_helper.to_array(tensor)
    encodings = {as_is: values.dtype} if as_is is not None else _ENCODINGS
    for order in _orders(values):
        for dtype, encoding in encodings.items():
            runs = _runs(order, encoding)
            if len(runs):
                yield _Candidate(index, dtype, runs, values.size * encoding.itemsize)


def _orders(values: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
    """Views of the tensor with its axes in the orders that a plan may have them in."""
    yield values
    if values.ndim > 2 and values.shape[1] > 1:  # a convolution: channels last
        yield np.moveaxis(values, 1, -1)
    if values.ndim == 2:  # a matrix: the other way round
        yield values.T


def _runs(order: NDArray[np.generic], encoding: np.dtype[Any]) -> NDArray[np.uint8]:
    """Runs of the tensor, spread over it, as bytes in one encoding; only those elements are converted."""
    length, step = _RUN_BYTES // encoding.itemsize, 8 // encoding.itemsize
    starts = np.unique(np.linspace(0, order.size - length, _RUNS).astype(np.int64) // step * step)
    places = np.unravel_index(starts[:, None] + np.arange(length), order.shape)
    with np.errstate(over="ignore"):
        runs = np.ascontiguousarray(order[places].astype(encoding)).view(np.uint8)
    varied: NDArray[np.uint8] = runs[(runs != runs[:, :1]).any(axis=1)]
    return varied


def _present(runs: NDArray[np.uint8] | None, plan: bytes | memoryview) -> NDArray[np.bool_]:
    """For each run, whether the plan holds it at a multiple of 4 bytes."""
    if runs is None:
        return np.zeros(0, np.bool_)
    heads, tails = np.ascontiguousarray(runs).view(_KEY).T
    starting_with: dict[int, list[int]] = {}
    for run, head in enumerate(heads.tolist()):
        starting_with.setdefault(head, []).append(run)
    keys = np.unique(heads)
    # Nearly every word of a plan is no run's head; a small table says so without a search.
    listed = np.zeros(1 << _TABLE_BITS, np.bool_)
    listed[_slots(keys)] = True
    present = np.zeros(len(runs), np.bool_)
    raw = np.frombuffer(plan, np.uint8)
    for start in range(0, len(raw), _CHUNK_BYTES):
        for shift in (0, 4):
            piece = raw[start + shift : start + shift + _CHUNK_BYTES + 8]
            words = piece[: len(piece) // 8 * 8].view(_KEY)
            maybe = np.flatnonzero(listed[_slots(words[:-1])])
            for hit in maybe[np.isin(words[maybe], keys)].tolist():
                for run in starting_with[int(words[hit])]:
                    present[run] |= tails[run] == words[hit + 1]
    return present


def _slots(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4) of 8-byte words."""
    return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _TABLE_BITS)
