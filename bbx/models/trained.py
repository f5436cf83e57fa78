"""Checkpoints that `bbx train` writes: weights, and all that using them needs, in one safetensors file.

The file's metadata holds a JSON document under the key `bbx`: the model's options, the names of the classes,
preprocessing, the task, and how the weights came about. So MODEL of any command may be such a file.

Nothing heavy is imported: the header of a safetensors file is a length and a JSON text.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bbx.errors import ModelError, UsageError, WeightsError
from bbx.models.spec import LIBRARIES, ModelSpec
from bbx.types import SCHEMA, Preprocess, Task

METADATA_KEY = "bbx"
SUFFIX = ".safetensors"

_LONGEST_HEADER = 100_000_000
"""Bytes; safetensors itself reads none that is longer."""

_SETTLED = ("head", "num_classes", "num_keypoints", "weights", "backbone")
"""Options that the weights have decided."""


class Trained(BaseModel):
    """What a trained checkpoint says of itself; validated when it is read, unknown keys rejected.

    Attributes:
        spec: the options of `ModelSpec`, without `weights` and `seed`, which were those before training.
        classes: their names in the network's numbering; of detection and segmentation the background first.
        preprocess: how an image became a row of the input.
        training: how it was made, as plain JSON: command, data, epoch, metric, versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal["bbx/1"] = Field(default="bbx/1", alias="schema")
    spec: dict[str, Any]
    task: Task
    classes: tuple[str, ...]
    preprocess: Preprocess
    training: dict[str, Any]

    def to_metadata(self) -> dict[str, str]:
        """The metadata of the safetensors file."""
        return {METADATA_KEY: self.model_dump_json(by_alias=True)}


def is_checkpoint(model: str) -> bool:
    """Whether MODEL is named by the path of a checkpoint."""
    return model.endswith(SUFFIX)


def named_spec(model: str, options: Mapping[str, Any]) -> ModelSpec:
    """The spec of MODEL: of a name with the options given, or of a trained checkpoint.

    Args:
        model: a preset, `torchvision:NAME`, `timm:NAME`, `package.module:factory`, or a checkpoint that
            `bbx train` wrote.
        options: fields of `ModelSpec` other than its name. With a checkpoint, one at its default stands for
            what the checkpoint has.

    Raises:
        ModelError, UsageError: as `ModelSpec`, and where an option contradicts the checkpoint.
        WeightsError: there is no such file, or it is no checkpoint that `bbx train` wrote.
    """
    if not is_checkpoint(model):
        return ModelSpec.from_request({"name": model, **options})
    trained = required(Path(model))
    _refuse_code(model, trained.spec["name"])
    usual = {field.name: field.default for field in fields(ModelSpec) if field.default is not MISSING}
    own: dict[str, Any] = {**usual, **trained.spec, "weights": model}
    given = {name: value for name, value in options.items() if value != usual.get(name)}
    for name in _SETTLED:
        if name in given and given[name] != own[name]:
            flag = "--" + name.replace("_", "-")
            kept = "brings its weights" if name == "weights" else f"was made with {flag} {own[name]}"
            raise UsageError(
                f"{model} {kept}, and {flag} {given[name]} was asked.", hint=f"Leave {flag} out."
            )
    return ModelSpec.from_request({**own, **given})


def _refuse_code(model: str, name: str) -> None:
    """A file of tensors must not decide which code runs."""
    library, colon, _ = name.partition(":")
    if colon and library not in LIBRARIES:
        raise ModelError(
            f"{model} was trained from {name}, which is code of your own.",
            hint=f"Name that: {name} --weights {model}",
        )


def required(path: Path) -> Trained:
    """What a trained checkpoint says of itself.

    Raises:
        WeightsError: there is no such file, it is truncated, or no checkpoint that `bbx train` wrote.
    """
    trained = read_trained(path)
    if trained is None:
        raise WeightsError(
            f"{path} does not say of which model it is.",
            hint=f"`bbx train` writes files that do. Name the model: MODEL --weights {path}",
        )
    return trained


def read_trained(path: Path) -> Trained | None:
    """What a safetensors file says of itself; None where it is no checkpoint that `bbx train` wrote.

    Raises:
        WeightsError: there is no such file, it is no safetensors file, or of another schema.
    """
    text = _metadata(path).get(METADATA_KEY)
    if text is None:
        return None
    try:
        return Trained.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise WeightsError(
            f"The metadata of {path} is not of schema {SCHEMA}: {where}: {first['msg']}.",
            hint=f"Name the model: MODEL --weights {path}",
        ) from error


def _metadata(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length <= _LONGEST_HEADER else None
    except FileNotFoundError as error:
        raise WeightsError(f"There is no checkpoint {path}.") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from error
    except (struct.error, ValueError) as error:
        raise WeightsError(f"{path} is truncated or no safetensors file.") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{path} is truncated or no safetensors file.")
    metadata = header.get("__metadata__", {})
    return metadata if isinstance(metadata, dict) else {}
