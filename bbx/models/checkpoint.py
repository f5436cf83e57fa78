"""Checkpoints: read without running code, unwrapped, and fitted to a module key for key."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from bbx.errors import WeightsError
from bbx.models.caches import CHECKPOINT_SUFFIXES

State = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Head:
    """The layer that scores classes.

    Attributes:
        path: of the layer in its module.
        rows_per_class: output channels for each class; anchors, where each of them is scored.
        parts: paths of all that depends on what is told apart: on the number of classes, or of keypoints;
            empty where it is the layer alone.
        keypoints: path of the layer that gives each keypoint a heat map; empty where there is none.
    """

    path: str
    rows_per_class: int = 1
    parts: tuple[str, ...] = ()
    keypoints: str = ""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """With one of which the keys begin that another number of classes, or another head, may concern."""
        return tuple(f"{part}." for part in self.parts or (self.path,))


# Averaged weights come first: where a training script keeps both, they are the ones it evaluates.
_WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_SHOWN = 4

# How torch's guarded unpickler refuses what is neither a tensor nor a plain container.
_RUNS_CODE = re.compile(r"GLOBAL|unrecognized function|unsupported class|Unsupported operand", re.IGNORECASE)

# torchvision's published DenseNet files predate the rule that a module's name has no dot.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$")


def read(path: Path, wanted: Collection[str]) -> tuple[State, tuple[str, ...]]:
    """The state dict in a checkpoint file, and what was unwrapped to get at it.

    A `.safetensors` file is tensors only; any other is loaded with `weights_only=True`, and refused when
    that fails.

    Args:
        path: of the file; its suffix is one of `CHECKPOINT_SUFFIXES`.
        wanted: keys of the module it is meant for; a prefix that the module has too is kept.

    Raises:
        WeightsError: no such file, not a checkpoint, or a pickle that is more than tensors.
    """
    if path.suffix not in CHECKPOINT_SUFFIXES:
        raise WeightsError(
            f"{path} is no checkpoint that bbx knows by its suffix.",
            hint=f"Known: auto, pretrained, random, or a file that ends in {', '.join(CHECKPOINT_SUFFIXES)}.",
        )
    if not path.is_file():
        raise WeightsError(f"There is no checkpoint {path}.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state, notes = _unwrap(content, path)
    return _rename(state, notes, wanted)


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is truncated or no safetensors file: {_first_line(error)}") from error


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as stream:
        # A zip archive since torch 1.6, a pickle before.
        if not stream.read(2).startswith((b"PK", b"\x80")):
            raise WeightsError(f"{path} is truncated or no checkpoint: torch.save writes no such file.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file raises whatever the unpickler happens to trip over.
        if _RUNS_CODE.search(str(error)):
            raise WeightsError(
                f"{path} holds more than tensors, and loading it could run code; bbx does not.",
                hint="Save it again with torch.save(model.state_dict(), …) or as safetensors.",
            ) from error
        # torch's own text for a damaged pickle advises to load it without a guard.
        reason = type(error).__name__ if "weights_only" in str(error) else _first_line(error)
        raise WeightsError(f"{path} is truncated or no checkpoint: {reason}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unwrap(content: Any, path: Path) -> tuple[State, list[str]]:
    notes = []
    while isinstance(content, Mapping):
        inner = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        notes.append(f"unwrapped {inner!r}")
        content = content[inner]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no state dict, but {_described(content)}.")
    if strange := [key for key, value in content.items() if not isinstance(value, torch.Tensor)]:
        raise WeightsError(
            f"{path} holds no state dict: {_listed(strange)} are no tensors.",
            hint=f"A state dict may be wrapped as {', '.join(_WRAPPERS)}.",
        )
    if any("ema" in note for note in notes) and "n_averaged" in content:
        content = {key: value for key, value in content.items() if key != "n_averaged"}
    # Modules that changed their layout look for the version in the dict's own metadata, so keep its type.
    return content if isinstance(content, dict) else dict(content), notes


def _described(content: Any) -> str:
    return "an empty dict" if isinstance(content, Mapping) else f"a {type(content).__name__}"


def _rename(state: State, notes: list[str], wanted: Collection[str]) -> tuple[State, tuple[str, ...]]:
    while prefix := _shared_prefix(state, wanted):
        notes.append(f"removed the prefix {prefix!r}")
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    if any(_OLD_DENSENET.match(key) for key in state):
        notes.append("renamed keys of an old DenseNet")
        state = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    return state, tuple(notes)


def _shared_prefix(state: State, wanted: Collection[str]) -> str | None:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in wanted):
            return prefix
    return None


def without_head(
    state: State, own: Mapping[str, torch.Tensor], head: Head, *, path: Path
) -> tuple[State, tuple[str, ...]]:
    """The state without the parts of a head for another number of classes or of another kind.

    Args:
        own: state of the module that it is meant for.
        path: where the state comes from, for the note.

    Returns:
        The state itself where the heads agree; what was left out, in words.
    """
    mine, theirs = (
        {key: tensors[key].shape for key in tensors if key.startswith(head.prefixes)}
        for tensors in (own, state)
    )
    other = {key for key in theirs if mine.get(key) != theirs[key]}
    if mine.keys() == theirs.keys() and not other:
        return state, ()
    weight = f"{head.path}.weight"
    why = "is of another kind"
    if weight in state and weight in own:
        classes, here = (tensors[weight].shape[0] // head.rows_per_class for tensors in (state, own))
        if classes != here:
            why = f"has {classes} classes, and this one {here}"
    note = f"the head is new: that of {path} {why}"
    return {key: value for key, value in state.items() if key not in other}, (note,)


def fit(
    module: nn.Module,
    state: State,
    *,
    path: Path,
    head: Head | None = None,
    unused: tuple[str, ...] = (),
    new: Head | None = None,
) -> tuple[str, ...]:
    """Load a state dict into a module, key for key and shape for shape.

    Args:
        path: where the state comes from, for errors.
        head: the classification layer, whose size a mismatch is explained by.
        unused: prefixes of keys that the checkpoint may hold and the module need not have.
        new: a head that need not be in the checkpoint.

    Returns:
        What was left out, in words.

    Raises:
        WeightsError: keys are missing, unexpected or of another shape; lists them and says what to type.
    """
    own = module.state_dict()
    other_shape = [key for key in state if key in own and own[key].shape != state[key].shape]
    if head is not None:
        _check_head(state, own, other_shape, head, path)
    # The dict itself where it can be used: it may carry the versions of the modules that wrote it.
    fitting = {key: value for key, value in state.items() if key not in other_shape} if other_shape else state
    missing, unexpected = module.load_state_dict(fitting, strict=False)
    # A frozen batch norm has no counter of batches, and nothing but training reads it.
    missing = [key for key in missing if key not in other_shape and not key.endswith(".num_batches_tracked")]
    missing = [key for key in missing if new is None or not key.startswith(new.prefixes)]
    # Not by `unexpected`: torch does not name keys of a submodule that is None, as one for training may be.
    left_out = [key for key in state if key not in own and key.startswith(unused)] if unused else []
    unexpected = [key for key in unexpected if key not in left_out]
    problems = [
        f"{len(keys)} {problem} ({_listed(keys)})"
        for keys, problem in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            ([_shapes(key, state, own) for key in other_shape], "of another shape"),
        )
        if keys
    ]
    if problems:
        raise WeightsError(
            f"{path} does not fit this model; keys: {'; '.join(problems)}.",
            hint="Name the architecture, --head, --num-classes and --image-size that it was trained with.",
        )
    return (f"left out {_listed(left_out)}",) if left_out else ()


def _check_head(state: State, own: State, other_shape: list[str], head: Head, path: Path) -> None:
    weight = f"{head.path}.weight"
    if weight in other_shape and state[weight].shape[1:] == own[weight].shape[1:]:
        classes, here = (tensors[weight].shape[0] // head.rows_per_class for tensors in (state, own))
        raise WeightsError(
            f"{path} has a head of {classes} classes, and the model one of {here} "
            f"({_shapes(weight, state, own)}).",
            hint=f"Type: --num-classes {classes}",
        )
    bias = f"{head.keypoints}.bias"
    if head.keypoints and bias in other_shape:
        keypoints, here = (tensors[bias].shape[0] for tensors in (state, own))
        raise WeightsError(
            f"{path} finds {keypoints} keypoints, and the model {here} ({_shapes(bias, state, own)}).",
            hint=f"Type: --num-keypoints {keypoints}",
        )


def _shapes(key: str, state: State, own: State) -> str:
    return f"{key} {list(state[key].shape)} for {list(own[key].shape)}"


def _listed(keys: Collection[str]) -> str:
    shown = [str(key) for key in list(keys)[:_SHOWN]]
    rest = len(keys) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def in_order(state: State, own: Mapping[str, torch.Tensor], *, path: Path) -> State:
    """The tensors of `state` under the keys of `own`, by position.

    Raises:
        WeightsError: their number or a shape differs.
    """
    if len(state) != len(own):
        raise WeightsError(f"{path} holds {len(state)} tensors, and the model {len(own)}.")
    renamed = dict(zip(own, state.values(), strict=True))
    for (key, value), old in zip(renamed.items(), state, strict=True):
        if value.shape != own[key].shape:
            raise WeightsError(
                f"{path}: {old} {list(value.shape)} stands where {key} {list(own[key].shape)} should."
            )
    return renamed
