"""The processes and the device of a run: one, or several that `torchrun` started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import ignite.distributed as idist
import torch
from torch import nn

from bbx.errors import UnavailableError, UsageError

_CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""Without it, products on a GPU may differ from run to run."""


@contextlib.contextmanager
def processes(asked: str) -> Iterator[torch.device]:
    """Join the other processes of the run, if there are any; gives this one's device.

    Args:
        asked: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: it names no device.
        UnavailableError: this machine has no such device.
    """
    os.environ.setdefault(*_CUBLAS)
    device = _device(asked)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    idist.initialize("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        idist.finalize()


def _device(asked: str) -> torch.device:
    name = ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked
    if name == "cuda" and (rank := os.environ.get("LOCAL_RANK")) is not None:
        name = f"cuda:{rank}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"There is no device {asked!r}.", hint="Known: auto, cpu, cuda, cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"bbx trains on CPUs and CUDA GPUs, and --device {asked} was asked.")
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise UnavailableError(
                f"--device {asked} was asked, and this machine has {torch.cuda.device_count()} GPUs for CUDA."
            )
        torch.cuda.set_device(device)
    return device


def gathered(part: Any) -> list[Any]:
    """What each process has, in the order of their numbers; every process gets all."""
    if idist.get_world_size() == 1:
        return [part]
    parts: list[Any] = [None] * idist.get_world_size()
    torch.distributed.all_gather_object(parts, part)
    return parts


def from_first(ask: Callable[[], bool]) -> bool:
    """What the first process finds; every process gets its answer."""
    answer = [ask() if idist.get_rank() == 0 else False]
    if idist.get_world_size() > 1:
        torch.distributed.broadcast_object_list(answer)
    return answer[0]


def mean_of(value: float) -> float:
    """The mean of what each process has; every process gets it."""
    if idist.get_world_size() == 1:
        return value
    total: Any = idist.all_reduce(value)
    return float(total) / idist.get_world_size()


def share_buffers(network: nn.Module) -> None:
    """Give every process the first one's buffers: statistics of batch norms are those of its own images."""
    if idist.get_world_size() > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, src=0)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Have torch choose the same algorithms every time; it warns where it has none such."""
    memory: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        memory.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = before[2]
        torch.backends.cudnn.benchmark = before[3]
