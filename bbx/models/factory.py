"""Models of the user's own: `package.module:factory`."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bbx.errors import ModelError, UsageError, did_you_mean
from bbx.models.construct import sized
from bbx.models.spec import ModelSpec, Prefixed
from bbx.types import Preprocess

_DEFAULT_SIZE = 224


def call_factory(target: Prefixed, spec: ModelSpec) -> tuple[nn.Module, Preprocess]:
    """Import the user's module, call the factory without arguments, and check what it gives.

    The factory returns an `nn.Module` that takes float32 [batch, 3, height, width], or a pair of such a
    module and an example of its input (a tensor, or a tuple of one), which says the image size.

    Raises:
        ModelError: the import, the factory or what it gives is at fault; says which and why.
        UsageError: an option that only the factory can decide.
    """
    if spec.head != "linear" or spec.num_classes is not None:
        raise UsageError(
            f"The head of {spec.name} is the factory's own.", hint="Leave out --head and --num-classes."
        )
    with _importable_from_here():
        made = _call(_find(target), spec)
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"{spec.name} returned {type(module).__name__}.",
            hint="It must return an nn.Module, or a pair (module, example_inputs).",
        )
    height, width = (_DEFAULT_SIZE, _DEFAULT_SIZE) if example is None else _image_size(example, spec)
    return module, sized(Preprocess(height, width), spec)


@contextlib.contextmanager
def _importable_from_here() -> Iterator[None]:
    """Let modules in the working folder be imported, as `python -m` does."""
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
        importlib.invalidate_caches()
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def _find(target: Prefixed) -> Any:
    try:
        module = importlib.import_module(target.library)
    except ModuleNotFoundError as error:
        if error.name is not None and (target.library + ".").startswith(error.name + "."):
            raise ModelError(
                f"{target.name}: there is no module {error.name!r}.",
                hint=f"bbx looks in {Path.cwd()} and in what is installed.",
            ) from error
        raise ModelError(f"{target.name}: importing {target.library} failed: {error}.") from error
    except Exception as error:
        raise ModelError(
            f"{target.name}: importing {target.library} failed: {type(error).__name__}: {error}"
        ) from error
    try:
        return reduce(getattr, target.architecture.split("."), module)
    except AttributeError as error:
        public = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise ModelError(
            f"{target.library} has no {target.architecture!r}.",
            hint=did_you_mean(target.architecture, public),
        ) from error


def _call(factory: Any, spec: ModelSpec) -> Any:
    if not callable(factory):
        raise ModelError(f"{spec.name} is a {type(factory).__name__}, not a function.")
    try:
        return factory()
    except Exception as error:
        raise ModelError(
            f"{spec.name}() failed: {type(error).__name__}: {error}",
            hint="A factory is called without arguments.",
        ) from error


def _image_size(example: Any, spec: ModelSpec) -> tuple[int, int]:
    tensor = example[0] if isinstance(example, (tuple, list)) and len(example) == 1 else example
    if not isinstance(tensor, torch.Tensor):
        raise ModelError(
            f"{spec.name}: example_inputs is {type(example).__name__}.",
            hint="It must be one tensor, or a tuple of one.",
        )
    if tensor.dtype != torch.float32 or tensor.ndim != 4 or tensor.shape[1] != 3:
        raise ModelError(
            f"{spec.name}: example_inputs is {tensor.dtype} {list(tensor.shape)}.",
            hint="Images are torch.float32 [batch, 3, height, width].",
        )
    return tensor.shape[2], tensor.shape[3]
