"""The verb `train`: a head for the classes at hand, trained on pictures."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from bbx import process
from bbx.artifact import locked
from bbx.errors import UsageError
from bbx.making import command_line
from bbx.models.spec import ModelSpec
from bbx.models.trained import named_spec
from bbx.training.options import TrainOptions, default_out

_PATIENCE_S = 5.0
"""How long another run may still be ending in the same folder."""

_SPEC = ("head", "image_size", "weights", "seed", "backbone")
"""Options of the model that training has a use for."""

_PLACES = ("workers", "device", "log_dir", "save_every")
"""Options that the result does not depend on."""


def train(
    model: str,
    *,
    data: str | Path,
    out: Path | str | None = None,
    resume: bool = False,
    force: bool = False,
    listener: process.Listener = process.silent,
    **options: Any,
) -> dict[str, Any]:
    """Train a model on labelled pictures, and keep the best weights with all that using them needs.

    Started by `torchrun`, every process calls this; the first one writes.

    Args:
        model: a preset, `torchvision:NAME`, `timm:NAME`, `package.module:factory`, or a checkpoint that an
            earlier call wrote.
        data: class folders, a COCO file, `images` and `masks`, or `torchvision:CIFAR10` and the like; see
            `bbx.datasets.open_dataset`.
        out: the folder of the run; `runs/MODEL` by default.
        resume: go on with the run that is in the folder, if there is one.
        force: begin anew, whatever is in the folder.
        listener: hears progress and warnings.
        **options: of the model: `head`, `image_size`, `weights`, `seed`, `backbone`; of the training: see
            `bbx.training.options.TrainOptions`.

    Returns:
        The document of `bbx train --json`.

    Raises:
        BbxError: there is no such model or data, the folder holds another run, the loss is no number any
            more, or any other reason; what was kept before is whole.
    """
    if resume and force:
        raise UsageError("--resume and --force do not go together.", hint="Leave one out.")
    unknown = options.keys() - {field.name for field in fields(TrainOptions)} - set(_SPEC)
    if unknown:
        raise UsageError(f"Training has no option {sorted(unknown)[0]!r}.")
    spec = named_spec(model, {name: options[name] for name in _SPEC if name in options})
    asked = TrainOptions(
        spec=spec, data=str(data), **{name: value for name, value in options.items() if name not in _SPEC}
    )
    folder = Path(out) if out is not None else default_out(spec)
    request = {
        "options": asked.to_request(),
        "out": str(folder.absolute()),
        "command": _command(model, asked, options),
        "resume": resume,
        "force": force,
    }
    if not is_first_process():
        return process.run_task("bbx.training.run:train_task", request, listener=listener)
    with locked(folder.absolute(), timeout_s=_PATIENCE_S):
        return process.run_task("bbx.training.run:train_task", request, listener=listener)


def is_first_process() -> bool:
    """Whether this is the process that writes and reports, of those that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def _command(model: str, asked: TrainOptions, options: dict[str, Any]) -> str:
    """The command line that asks for this, without its folder and what the result does not depend on."""
    usual = {field.name: field.default for kind in (TrainOptions, ModelSpec) for field in fields(kind)}
    shown = {name: value for name, value in options.items() if value is not False and name not in _PLACES}
    return command_line("train", model, {"data": asked.data, **shown}, usual)
