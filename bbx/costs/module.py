"""Costs of a torch module, from one traced inference.

On the meta device an operator computes the shape of its result and nothing else, so a network of any size is
traced in the time that Python takes to call its operators. Operations are counted by the formulas of
`torch.utils.flop_counter`, so that the total is its total.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bbx.costs.layers import Costs, Layer, Volume, volume
from bbx.costs.liveness import Use, peak_bytes
from bbx.types import Precision, TensorSpec

_TRACING_FAILS = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError)
"""What a network raises on the meta device when it looks at values, or keeps tensors where `to` does not see
them."""


@dataclass(slots=True)
class _Tally:
    """What was seen of one module."""

    shape: tuple[int, ...] | None = None
    calls: int = 0
    flops: int = 0
    written: Volume = field(default_factory=Volume)
    moved: Volume = field(default_factory=Volume)


_NORMS = ("native_batch_norm", "native_layer_norm", "native_group_norm")
"""Operators whose outputs after the first are for a backward pass."""


class _Trace(TorchDispatchMode):
    """Records every operator under the module that called it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.tallies: dict[str, _Tally] = {}
        self.uses: list[Use[int]] = []
        self.sizes: dict[int, Volume] = {}
        self._inside = [""]
        # A storage's address tells it apart as long as nobody frees it.
        self._kept: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given, made = _tensors((args, kwargs)), _tensors(result)
        if func.overloadpacket.__name__ in _NORMS:
            made = made[:1]
        if made and not _is_view(func, given, made):
            self._record(func, given, made, result, (args, kwargs))
        return result

    def _record(
        self,
        func: Any,
        given: list[Tensor],
        made: list[Tensor],
        result: Any,
        arguments: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> None:
        tally = self.tally(self._inside[-1])
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            tally.flops += formula(*arguments[0], **arguments[1], out_val=result)
        known = {_storage(tensor) for tensor in given}
        written = sum(map(_volume, made), Volume())
        tally.written += written
        tally.moved += sum(map(_volume, given), written)
        for tensor in made:
            if _storage(tensor) not in known:
                self.hold(tensor)
        self.uses.append(Use({*known, *map(_storage, made)}))

    def hold(self, tensor: Tensor) -> int:
        """Count a tensor's storage as an activation; gives what it is known by."""
        key = _storage(tensor)
        if key not in self.sizes:
            self.sizes[key] = _volume(tensor)
            self._kept.append(tensor)
        return key

    def tally(self, path: str) -> _Tally:
        """What was seen of the module at a path."""
        return self.tallies.setdefault(path, _Tally())

    @contextlib.contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Know which part of a module runs."""

        def enter(path: str) -> Any:
            def hook(part: nn.Module, inputs: Any) -> None:
                self.tally(path).calls += 1
                self._inside.append(path)

            return hook

        def leave(path: str) -> Any:
            def hook(part: nn.Module, inputs: Any, output: Any) -> None:
                self._inside.pop()
                found = self.tally(path)
                if found.shape is None and (tensors := _tensors(output)):
                    found.shape = tuple(tensors[0].shape)

            return hook

        handles = []
        for path, part in module.named_modules():
            handles += [part.register_forward_pre_hook(enter(path)), part.register_forward_hook(leave(path))]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _volume(tensor: Tensor) -> Volume:
    return volume(_dtype(tensor), tensor.numel())


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _is_view(func: Any, given: list[Tensor], made: list[Tensor]) -> bool:
    """Whether an operator only looks at what it was given in another way."""
    if func._schema.is_mutable:
        return False
    known = {_storage(tensor) for tensor in given}
    return all(_storage(tensor) in known for tensor in made)


def module_costs(module: nn.Module, inputs: Sequence[TensorSpec], names: Sequence[str]) -> Costs:
    """Trace one inference and count.

    Args:
        module: in eval mode, on any device; it is left as it is.
        inputs: of its arguments, with concrete shapes.
        names: of its outputs.
    """
    try:
        return _traced(_on_meta(module), module, inputs, names)
    except _TRACING_FAILS:
        if _is_on_meta(module):
            raise
    # It looks at values, so it must have some. What fails here fails for the user as well.
    return _traced(module, module, inputs, names)


def _on_meta(module: nn.Module) -> nn.Module:
    """The module without its numbers."""
    if _is_on_meta(module):
        return module
    tensors = [*module.parameters(), *module.buffers()]
    # Copied with the tensors shared, since `to` replaces them.
    return copy.deepcopy(module, memo={id(tensor): tensor for tensor in tensors}).to("meta")


def _is_on_meta(module: nn.Module) -> bool:
    tensors = [*module.parameters(), *module.buffers()]
    return bool(tensors) and all(tensor.is_meta for tensor in tensors)


def _traced(
    module: nn.Module, original: nn.Module, inputs: Sequence[TensorSpec], names: Sequence[str]
) -> Costs:
    """Trace `module`; `original` is it with its own parameters, which know what they share."""
    trace = _Trace()
    device = "cpu" if module is original and not _is_on_meta(module) else "meta"
    feeds = [
        torch.zeros([size or 1 for size in spec.shape], dtype=getattr(torch, spec.dtype), device=device)
        for spec in inputs
    ]
    weights = sum(map(_volume, original.parameters()), Volume())
    fed = [trace.hold(feed) for feed in feeds]
    # Fused inference paths of torch's own would be one operator that nobody has a formula for.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # Not inference mode, in which composite operators arrive whole.
        with torch.no_grad(), trace.watching(module), torch.device(device), trace:
            given = _tensors(module(*feeds))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    outputs = [_storage(tensor) for tensor in given]

    def peak(precision: Precision) -> int:
        sizes = {key: held.nbytes(precision) for key, held in trace.sizes.items()}
        return peak_bytes(trace.uses, sizes, inputs=fed, outputs=outputs)

    return Costs(
        layers=tuple(_layers(original, trace)),
        inputs=tuple(inputs),
        outputs=tuple(
            TensorSpec(name, _dtype(tensor), tuple(tensor.shape))
            for name, tensor in zip(names, given, strict=False)
        ),
        buffers=sum(map(_volume, original.buffers()), Volume()),
        boundary=sum(map(_volume, [*feeds, *given]), weights),
        peak=peak,
    )


def _layers(module: nn.Module, trace: _Trace) -> Iterator[Layer]:
    """What ran, in order, then what has parameters and never ran by itself."""
    parts = dict(module.named_modules())
    seen: set[int] = set()
    for path in dict.fromkeys([*trace.tallies, *parts]):
        part, found = parts[path], trace.tallies.get(path, _Tally())
        own = [each for each in part.parameters(recurse=False) if id(each) not in seen]
        seen |= {id(each) for each in own}
        if not own and not found.written.floats and not found.written.other:
            continue
        yield Layer(
            name=path,
            type=type(part).__name__,
            output_shape=found.shape,
            calls=found.calls,
            parameters=sum(prod(each.shape) for each in own),
            trainable=sum(prod(each.shape) for each in own if each.requires_grad),
            flops=found.flops,
            written=found.written,
            moved=found.moved,
        )
