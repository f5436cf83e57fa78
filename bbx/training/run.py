"""The child's side of `bbx train`: data, network and folder brought together, trained, described."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from torch.utils.data import DataLoader

from bbx import artifact, process
from bbx.datasets import Dataset
from bbx.errors import ExhaustedError, UsageError
from bbx.models.trained import Trained
from bbx.pipeline.documents import weights_json
from bbx.training.augment import Extras, preparation
from bbx.training.board import Board
from bbx.training.course import Course
from bbx.training.data import Data, open_data, require_targets
from bbx.training.folder import BEST, LAST, RunFolder
from bbx.training.judge import Judgement, judge
from bbx.training.loop import Loop
from bbx.training.options import TrainOptions
from bbx.training.ranks import deterministic, from_first, processes
from bbx.training.samples import Collate, Key, Order, Samples
from bbx.training.subject import Subject, subject_of
from bbx.types import SCHEMA

_TOOLS = ("torch", "torchvision", "timm", "numpy", "pillow")
_MOST_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a run is made of.

    Attributes:
        identity: what makes it this run and no other; see `RunFolder.stands`.
        command: the command line that asks for it, without its folder.
    """

    options: TrainOptions
    data: Data
    identity: dict[str, Any]
    subject: Subject
    folder: RunFolder
    device: torch.device
    command: str


def train_task(request: dict[str, Any]) -> dict[str, Any]:
    """Train as `TrainOptions` say; see `bbx.process.run_task`.

    Args:
        request: `options`, `out`, `command`, `resume` and `force`.

    Raises:
        BbxError: as the parts.
    """
    options = TrainOptions.from_request(request["options"])
    with (
        process.collecting_warnings() as warnings,
        processes(options.device) as device,
        deterministic(),
        torch.random.fork_rng(),
    ):
        writes = idist.get_rank() == 0
        process.progress("data", detail=options.data)
        with idist.one_rank_first():
            data = open_data(options)
        folder = RunFolder(Path(request["out"]).absolute(), writes=writes)
        board = Board(options.log_dir if writes else None)
        identity = {
            "options": request["options"],
            "data": data.manifest(),
            "processes": idist.get_world_size(),
        }
        resumed = from_first(
            lambda: folder.stands(identity, resume=request["resume"], force=request["force"])
        )
        process.progress("build", detail=options.spec.name)
        subject = subject_of(options, len(data.train.classes), len(data.train.keypoints))
        require_targets(data, subject.objective, options)
        run = Run(options, data, identity, subject, folder, device, request["command"])
        course = _train(run, board, resumed=resumed)
        board.close()
        return _document(run, course, warnings)


def _train(run: Run, board: Board, *, resumed: bool) -> Course:
    options, subject = run.options, run.subject
    rank, world, size = idist.get_rank(), idist.get_world_size(), options.images_a_step
    order = Order(len(run.data.train), size, options.seed, rank=rank, world=world)
    if options.task == "classification" and order.size < 2:
        raise UsageError(
            f"{len(run.data.train)} images to learn from are too few for {world} processes.",
            hint="A batch needs two images.",
        )
    course = Course(
        subject.objective,
        subject.blocks,
        subject.still,
        options,
        device=run.device,
        epoch_steps=len(order),
    )
    held_out = _loader(run, run.data.val, _shares(len(run.data.val), size), learn=False)

    def judged() -> Judgement:
        return judge(
            course.judged,
            held_out,
            run.data.val,
            subject.model.preprocess,
            subject.postprocess,
            device=run.device,
            autocast=course.autocast,
        )

    def keep(name: str, record: dict[str, Any]) -> None:
        run.folder.save_weights(name, course.judged.network.state_dict(), _trained(run, record))

    loop = Loop(
        course,
        _loader(run, run.data.train, order, learn=True),
        order,
        run.folder,
        board,
        judge=judged,
        keep=keep,
        images=len(run.data.train) + len(run.data.val),
    )
    if not resumed:  # only now that nothing is left that could be refused
        run.folder.begin(run.identity)
    with _readers_errors():
        loop.run(run.folder.load_state() if resumed else None)
    return course


@contextlib.contextmanager
def _readers_errors() -> Iterator[None]:
    """What torch says of a process that read images and is gone, as an error that bbx names.

    Raises:
        ExhaustedError: it was killed, which is how the kernel answers where memory is short.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ExhaustedError(
            "A process that reads images was killed, most likely because memory, or /dev/shm, ran out.",
            hint="Type: --workers 0, or a smaller --batch-size, and --resume.",
        ) from error


def _shares(count: int, size: int) -> list[list[Key]]:
    """The batches of images that this process judges: every image once, by one process."""
    rows = [(0, index) for index in range(idist.get_rank(), count, idist.get_world_size())]
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _loader(run: Run, data: Dataset, batches: Iterable[list[Key]], *, learn: bool) -> DataLoader[Any]:
    options = run.options
    level = options.augment if learn else "none"
    objective = run.subject.objective
    extras = Extras(objective.outlines, run.data.train.keypoints if objective.keypoints else ())
    prepare = preparation(options.task, level, run.subject.model.preprocess, extras)
    workers = options.workers
    if workers is None:
        workers = min(_MOST_WORKERS, len(os.sched_getaffinity(0)) - 1)
    return DataLoader(
        Samples(data, prepare, options.seed, substitute=learn),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=Collate(options.task),
        generator=torch.Generator(),
    )


def _trained(run: Run, record: dict[str, Any]) -> Trained:
    """What a checkpoint says of itself: nothing that differs between two runs of the same command."""
    model = run.subject.model
    spec = {name: value for name, value in model.spec.to_request().items() if name not in ("weights", "seed")}
    return Trained(
        spec=spec,
        task=run.options.task,
        classes=run.data.train.classes,
        preprocess=model.preprocess,
        training={
            "command": run.command,
            "weights": weights_json(model.weights),
            "data": run.identity["data"],
            **{name: record[name] for name in ("epoch", "step", "metric", "value", "scores")},
            "tools": artifact.tool_versions(*_TOOLS),
        },
    )


def _document(run: Run, course: Course, warnings: list[str]) -> dict[str, Any]:
    progress, folder = course.progress, run.folder
    best = progress.epochs[progress.best - 1]
    sizes = [(each.numel(), each.requires_grad) for each in course.objective.network.parameters()]
    return {
        "schema": SCHEMA,
        "checkpoint": str(folder.path / BEST),
        "sha256": artifact.sha256_of(folder.path / BEST),
        "last": str(folder.path / LAST),
        "model": run.options.spec.name,
        "task": run.options.task,
        "classes": list(run.data.train.classes),
        "weights": weights_json(run.subject.model.weights),
        "epochs": progress.epochs,
        "best": {name: best[name] for name in ("epoch", "metric", "value")},
        "stopped": progress.stopped,
        "data": {**run.identity["data"], "skipped": progress.broken},
        "parameters": {
            "all": sum(count for count, _ in sizes),
            "trained": sum(count for count, learns in sizes if learns),
        },
        "device": str(course.device),
        "processes": idist.get_world_size(),
        "seconds": round(progress.seconds, 3),
        "warnings": warnings,
        "notes": list(run.subject.notes),
        "command": run.command,
    }
