"""Damped residual branches for random weights, so that a deep network does not magnify rounding errors.

Where every branch of a residual network adds as much as it was given, a change of the input doubles and
doubles again: with freshly drawn weights, rounding the pixels to FP16 (2e-4) changed the logits of ResNet-152
by 8 %, which a trained network never does. So the batch norm that ends a branch is scaled down, as training
recipes start it from zero (Goyal et al., 2017, section 5.1), but not to zero: its branch must still matter.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Collection

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import stochastic_depth

DAMPING = 0.25
"""Factor of the last batch norm of a residual branch."""

_NORMS = (_BatchNorm, nn.GroupNorm)
_ADDITIONS = (operator.add, operator.iadd, torch.add)


def damp_residuals(module: nn.Module, *, but: Collection[nn.Module] = ()) -> int:
    """Scale the norms (batch or group) that end a residual branch, in place.

    A sum of two norms is where a stage begins, and neither is a mere shortcut: it is left alone. Of a
    module that `torch.fx` cannot trace, the parts are looked at.

    Args:
        but: parts that are left alone.

    Returns:
        How many norms were scaled.
    """
    if module in but:
        return 0
    try:
        graph = fx.Tracer().trace(_with_same_tensors(module))
    except Exception:  # noqa: BLE001 - whatever a module does that is no graph, its parts may be graphs
        return sum(damp_residuals(part, but=but) for part in module.children())
    left = {child for part in but for child in part.modules()}
    modules = {name: child for name, child in module.named_modules() if child not in left}
    damped: set[str] = set()
    for node in graph.nodes:
        if not _is_addition(node):
            continue
        norms = [name for name in map(_path, node.args[:2]) if isinstance(modules.get(name), _NORMS)]
        if len(norms) == 1:
            damped.add(norms[0])
    for name in damped:
        norm = modules[name]
        assert isinstance(norm, _NORMS)  # as found above
        if norm.affine:
            with torch.no_grad():
                norm.weight.mul_(DAMPING)
    return len(damped)


def _with_same_tensors(module: nn.Module) -> nn.Module:
    """A copy to be traced: some modules keep what they are given, and that would be the tracer's proxies."""
    tensors = (*module.parameters(), *module.buffers())
    copied: nn.Module = copy.deepcopy(module, memo={id(tensor): tensor for tensor in tensors})
    return copied


def _is_addition(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in ("add", "add_")
    return node.op == "call_function" and node.target in _ADDITIONS


def _path(value: object) -> str:
    """Path of the module that gave a value, seen through stochastic depth; empty where none did."""
    while isinstance(value, fx.Node) and value.target is stochastic_depth:
        value = value.args[0]
    return str(value.target) if isinstance(value, fx.Node) and value.op == "call_module" else ""
