"""`bbx models`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from bbx.cli import options as opt
from bbx.cli.output import print_json
from bbx.models.registry import presets
from bbx.models.spec import Preset
from bbx.types import SCHEMA


def models(
    task: Annotated[str | None, typer.Option(help="Only presets of this task.")] = None,
    as_json: opt.Json = False,
) -> None:
    """List what can be built, and how to name anything else."""
    found = presets(opt.task_named(task))
    if as_json:
        print_json({"schema": SCHEMA, "models": [_entry(preset) for preset in found]})
        return
    families: dict[str, list[str]] = {}
    for preset in found:
        families.setdefault(preset.family, []).append(preset.name)
    width = max(map(len, families))
    for family, names in families.items():
        typer.echo(f"{family:<{width}}  {' '.join(names)}")
    typer.echo(
        f"\n{len(found)} presets. Anything else by prefix: torchvision:NAME, timm:NAME, "
        "package.module:factory, file.onnx"
    )


def _entry(preset: Preset) -> dict[str, object]:
    return {
        "name": preset.name,
        "family": preset.family,
        "task": preset.task,
        "source": preset.source,
        "image_size": preset.preprocess.height,
        "min_size": preset.min_size,
        "size_multiple": preset.size_multiple,
        "num_classes": preset.num_classes,
        "num_keypoints": preset.num_keypoints,
        "backbone": preset.backbone,
        "detection": asdict(preset.detection) if preset.detection else None,
        "features": [{"channels": f.channels, "stride": f.stride} for f in preset.features],
        "pooled_channels": preset.pooled_channels,
    }
