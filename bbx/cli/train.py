"""`bbx train`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bbx.cli import options as opt
from bbx.cli.output import print_json, reporting


class ScheduleName(StrEnum):
    """`--schedule`."""

    COSINE = "cosine"
    LINEAR = "linear"
    STEP = "step"
    CONSTANT = "constant"


class AmpName(StrEnum):
    """`--amp`."""

    FP16 = "fp16"
    BF16 = "bf16"


class AugmentName(StrEnum):
    """`--augment`."""

    NONE = "none"
    LIGHT = "light"
    DEFAULT = "default"
    STRONG = "strong"


def _model_options(
    head: Annotated[opt.HeadName, typer.Option(help="Classifiers: linear, or mlp.")] = opt.HeadName.LINEAR,
    image_size: Annotated[
        opt.ImageSize | None,
        typer.Option(parser=opt.parse_size, metavar="SIZE", help="Side in pixels, or HEIGHTxWIDTH."),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="What to begin with: auto, pretrained, random, or a file.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    backbone: Annotated[
        str | None, typer.Option(help="A preset or timm:NAME in the place of a pyramid's own backbone.")
    ] = None,
) -> None:
    """Options of `bbx.models.spec.ModelSpec` that training has a use for."""


def _training_options(  # noqa: PLR0917 - a group of options, never called
    val: Annotated[
        str | None,
        typer.Option(help="What epochs are judged by: a share to hold out, a part of the data, or a path."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="How often each image is seen.")] = 10,
    batch_size: Annotated[
        int | None, typer.Option(help="Images a step and process; by default 32, detectors 4, segmenters 8.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate; by default 5e-4 with adamw, 1e-2 with sgd.")
    ] = None,
    optimizer: Annotated[str, typer.Option(help="By timm's name.")] = "adamw",
    schedule: Annotated[
        ScheduleName, typer.Option(help="Of the learning rate, after the warm-up.")
    ] = ScheduleName.COSINE,
    warmup: Annotated[
        float | None, typer.Option(help="Epochs of warm-up; by default a tenth of all, at most one.")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="By default 0.05, and 1e-4 with sgd; not of biases and norms.")
    ] = None,
    label_smoothing: Annotated[
        float, typer.Option(help="Share of the target spread over all classes.")
    ] = 0.0,
    mixup: Annotated[float, typer.Option(help="Classifiers: alpha of mixup; 0 for none.")] = 0.0,
    freeze_backbone: Annotated[
        bool, typer.Option("--freeze-backbone", help="Train the head only; batch norms below it stay still.")
    ] = False,
    unfreeze: Annotated[
        int | None, typer.Option(help="Freeze the backbone, but for its last blocks, this many.")
    ] = None,
    freeze_until: Annotated[
        str | None, typer.Option(help="Freeze everything up to this block, such as layer3.")
    ] = None,
    backbone_lr_scale: Annotated[float, typer.Option(help="Factor of the rate below the head.")] = 1.0,
    layer_decay: Annotated[
        float | None, typer.Option(help="Factor of the rate from a block to the one below it.")
    ] = None,
    amp: Annotated[AmpName | None, typer.Option(help="Type to compute in, where that is safe.")] = None,
    ema: Annotated[
        float | None, typer.Option(help="Decay of an average of the weights, which is then what is kept.")
    ] = None,
    augment: Annotated[
        AugmentName, typer.Option(help="How much chance changes the images; light mirrors nothing.")
    ] = AugmentName.DEFAULT,
    patience: Annotated[
        int | None, typer.Option(help="Stop after this many epochs without a better metric.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that read images; by default one less than CPUs, at most 8.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    log_dir: Annotated[str | None, typer.Option(help="Where TensorBoard is to find curves.")] = None,
    save_every: Annotated[
        float, typer.Option(help="Seconds after which the state is saved within an epoch.")
    ] = 600.0,
) -> None:
    """Options of `bbx.training.options.TrainOptions`."""


@opt.with_options(_model_options, _training_options)
def train(
    model: Annotated[
        str,
        typer.Argument(
            help="A preset, torchvision:NAME, timm:NAME, package.module:factory, or a trained checkpoint."
        ),
    ],
    *,
    options: dict[str, Any],
    data: Annotated[
        str,
        typer.Option(
            help="Class folders, a COCO file, images and masks, or torchvision:CIFAR10 and the like."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder of the run; by default runs/MODEL.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Begin anew, whatever is in the folder.")] = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train a model on labelled pictures: the head for the classes found, and what is below it."""
    from bbx.train_api import is_first_process
    from bbx.train_api import train as train_model

    reports = is_first_process()
    with reporting(quiet=quiet or not reports) as listener:
        document = train_model(
            model, data=data, out=out, resume=resume, force=force, listener=listener, **options
        )
    if not reports:
        return
    if as_json:
        print_json(document)
    else:
        typer.echo(summary(document))


def summary(document: dict[str, Any]) -> str:
    """The document in a few lines."""
    best, data, counts = document["best"], document["data"], document["parameters"]
    epochs = document["epochs"]
    losses = f"train {epochs[-1]['train_loss']:.4g}"
    if epochs[-1]["val_loss"] is not None:
        losses += f", held out {epochs[-1]['val_loss']:.4g}"
    lines = [
        f"{document['checkpoint']}  (sha256 {document['sha256'][:12]})",
        f"best      {best['metric']} {best['value']:.2%} in epoch {best['epoch']} of {len(epochs)}",
        f"loss      {losses} in the last epoch",
        f"classes   {_listed(document['classes'])}",
        f"data      {data['train']} images to learn from, {data['val']} to judge by",
        f"learnt    {counts['trained']:,} of {counts['all']:,} parameters in {document['seconds']:.0f} s",
        f"stopped   after {document['stopped']}",
    ]
    if data["skipped"]:
        lines.append(f"left out  {len(data['skipped'])} images that cannot be read")
    return "\n".join(lines + [f"note      {note}" for note in document["notes"]])


def _listed(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{len(names)}: {shown}" + (", …" if len(names) > most else "")
