"""The loop: ignite's engine drives, and these are its handlers.

What is drawn in a step, by mixup or dropout, is a function of the seed, the step and the process; data and
augmentation are one of the seed, the epoch and the index (`bbx.training.samples`). So a run that is resumed
does the same steps as one that was never stopped, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from bbx import process
from bbx.datasets.files import require_few_broken
from bbx.errors import BbxError
from bbx.training.board import Board
from bbx.training.course import Course
from bbx.training.folder import BEST, LAST, RunFolder
from bbx.training.judge import Judgement
from bbx.training.ranks import gathered, mean_of, share_buffers
from bbx.training.samples import Batch, Order, drawn_from

LOG_EVERY = 10
"""Steps between two lines of the log."""

_STEP = 3
"""What is drawn; see `bbx.training.samples`."""

_LARGEST_GRADIENT = 10.0
"""Norm to which the gradient of a detector is cut: random heads begin with losses beyond all measure."""


class Loop:
    """Trains a course to its end.

    Args:
        course: the network on its way.
        loader: gives the batches of an epoch in the order of `order`.
        judge: judges what the course has learnt.
        keep: writes a checkpoint of the judged weights under a name, as those of an epoch.
        images: how many there are, to learn from and to judge by.
    """

    def __init__(
        self,
        course: Course,
        loader: DataLoader[Any],
        order: Order,
        folder: RunFolder,
        board: Board,
        *,
        judge: Callable[[], Judgement],
        keep: Callable[[str, dict[str, Any]], None],
        images: int,
    ) -> None:
        self._course, self._loader, self._order = course, loader, order
        self._folder, self._board = folder, board
        self._judge, self._keep, self._images = judge, keep, images
        self._clock = self._saved = time.monotonic()
        self._network: nn.Module = course.objective
        if idist.get_world_size() > 1:
            devices = [course.device] if course.device.type == "cuda" else None
            self._network = DistributedDataParallel(course.objective, device_ids=devices)
        self._engine = Engine(self._step)
        self._engine.logger.disabled = True  # errors are told once, by whoever catches them
        self._stopper: EarlyStopping | None = None

    def run(self, state: dict[str, Any] | None) -> None:
        """Train until the last epoch is done, or nothing has become better for long enough.

        Args:
            state: to go on from, as `RunFolder.load_state` gives it.

        Raises:
            BbxError: the loss is no number any more, or too many pictures cannot be read.
            ExhaustedError: the disk is full.
        """
        course, options = self._course, self._course.options
        if options.patience is not None:
            self._stopper = EarlyStopping(options.patience, lambda _: self._last()["value"], self._engine)
        if state is not None:
            self._go_back_to(state)
        if course.progress.stopped:
            return
        self._engine.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
        self._engine.add_event_handler(Events.ITERATION_COMPLETED(every=LOG_EVERY), self._end_group)
        self._engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        self._engine.run(self._loader, max_epochs=options.epochs, epoch_length=course.epoch_steps)

    def _go_back_to(self, state: dict[str, Any]) -> None:
        course = self._course
        course.load_state_dict(state["course"])
        if self._stopper is not None:
            self._stopper.load_state_dict(state["stopper"])
        position = {"iteration": course.progress.step, "epoch_length": course.epoch_steps}
        self._engine.load_state_dict(position | {"max_epochs": course.options.epochs})
        self._folder.forget_after(course.progress.step)

    def _begin_epoch(self, engine: Engine) -> None:
        start = self._course.progress.step % self._course.epoch_steps
        self._order.set_epoch(engine.state.epoch - 1, start)
        self._course.learn()
        self._tell(engine, start)

    def _tell(self, engine: Engine, done: int) -> None:
        """Progress, with what the epochs before have come to."""
        words = [f"loss {self._course.progress.epoch.mean:.4g}"] if self._course.progress.epoch.count else []
        if self._course.progress.epochs:
            last = self._last()
            words.append(f"{last['metric']} {last['value']:.2%} after epoch {last['epoch']}")
        stage = f"epoch {engine.state.epoch} of {self._course.options.epochs}"
        process.progress(stage, done / self._course.epoch_steps, ", ".join(words))

    def _step(self, engine: Engine, batch: Batch) -> None:
        course, step = self._course, engine.state.iteration
        self._look_for_broken(batch)
        torch.manual_seed(drawn_from(_STEP, course.options.seed, step, idist.get_rank()))
        course.schedule.step_update(step - 1)
        here = batch.to(course.device)
        with course.autocast():
            loss: Tensor = self._network(here.images, here.targets)
        value = mean_of(float(loss.detach()))  # which tells all processes of one that has lost its way
        if not math.isfinite(value):
            at = (step - 1) % course.epoch_steps + 1
            raise self._derailed(f"The loss became {value} in epoch {engine.state.epoch}, batch {at}")
        course.optimiser.zero_grad()
        scaled: Any = course.scaler.scale(loss)
        scaled.backward()
        if course.options.task == "detection":
            course.scaler.unscale_(course.optimiser)
            nn.utils.clip_grad_norm_(course.objective.parameters(), _LARGEST_GRADIENT)
        course.scaler.step(course.optimiser)
        course.scaler.update()
        if course.average is not None:
            course.average.update(course.objective, step=step)
        course.progress.step = step
        course.progress.group.add(value)
        course.progress.epoch.add(value)

    def _look_for_broken(self, batch: Batch) -> None:
        if batch.refusal is not None:
            raise BbxError(batch.refusal[0], hint=batch.refusal[1])
        self._note_broken(batch.broken)
        if not batch.indices:
            raise BbxError("No image of a batch could be read.", hint="Mend or remove the broken files.")

    def _note_broken(self, broken: dict[str, str]) -> None:
        """Name each picture that cannot be read, once.

        Raises:
            BbxError: they are too many.
        """
        known = self._course.progress.broken
        for name, why in broken.items():
            if name not in known:
                known[name] = why
                process.warn(f"Left out: {why}")
        require_few_broken(
            list(known.values()),
            among=self._images,
            cannot_be="read",
            hint="Mend or remove them, and begin anew with --force.",
        )

    def _derailed(self, what: str) -> BbxError:
        best = self._course.progress.best
        good = f"the last good checkpoint is {self._folder.path / BEST}, of epoch {best}"
        return BbxError(
            f"{what}; {good if best else 'no epoch was complete'}.",
            hint=f"Try --lr {self._course.options.rate / 10:g}, with --force or another --out.",
        )

    def _end_group(self, engine: Engine) -> None:
        course = self._course
        rate = max(group["lr"] for group in course.optimiser.param_groups)
        loss = course.progress.group.take()
        self._folder.log(
            {
                "kind": "steps",
                "epoch": engine.state.epoch,
                "step": course.progress.step,
                "loss": loss,
                "lr": rate,
                "seconds": round(self._seconds(), 3),
            }
        )
        self._board.add(course.progress.step, {"loss/steps": loss, "lr": rate})
        self._tell(engine, (course.progress.step - 1) % course.epoch_steps + 1)
        if time.monotonic() - self._saved >= course.options.save_every:
            self._save()

    def _end_epoch(self, engine: Engine) -> None:
        course, progress = self._course, self._course.progress
        loss = progress.epoch.take()
        process.progress(f"epoch {engine.state.epoch} of {course.options.epochs}", None, "judging")
        share_buffers(course.judged.network)
        found = self._judge()
        for broken in (found.broken, *gathered(progress.broken)):
            self._note_broken(broken)
        if not self._is_sound(found):
            raise self._derailed(f"The weights are no numbers any more after epoch {engine.state.epoch}")
        record: dict[str, Any] = {
            "epoch": engine.state.epoch,
            "step": progress.step,
            "train_loss": loss,
            "val_loss": found.loss,
            "metric": found.metric,
            "value": found.value,
            "scores": found.scores,
            "seconds": round(self._seconds(), 3),
        }
        progress.epochs.append(record)
        self._folder.log({"kind": "epoch", **record})
        losses = {"loss/train": loss} | ({} if found.loss is None else {"loss/val": found.loss})
        self._board.add(
            progress.step, losses | {f"val/{name}": value for name, value in found.scores.items()}
        )
        if not progress.best or record["value"] > progress.epochs[progress.best - 1]["value"]:
            progress.best = record["epoch"]
            self._keep(BEST, record)
        self._keep(LAST, record)
        self._decide_to_stop(engine)
        self._save()

    def _is_sound(self, found: Judgement) -> bool:
        """Whether loss and weights are numbers: what is not is never kept."""
        weights = self._course.judged.network.parameters()
        return math.isfinite(found.loss or 0.0) and all(bool(each.isfinite().all()) for each in weights)

    def _decide_to_stop(self, engine: Engine) -> None:
        progress, options = self._course.progress, self._course.options
        if self._stopper is not None:
            self._stopper(engine)
        if engine.state.epoch == options.epochs:
            progress.stopped = f"all of {options.epochs} epochs"
        elif engine.should_terminate:
            progress.stopped = f"nothing better in {options.patience} epochs"

    def _last(self) -> dict[str, Any]:
        return self._course.progress.epochs[-1]

    def _seconds(self) -> float:
        """Seconds of work until now; counts on from the last call."""
        now = time.monotonic()
        self._course.progress.seconds += now - self._clock
        self._clock = now
        return self._course.progress.seconds

    def _save(self) -> None:
        self._seconds()
        stopper = None if self._stopper is None else self._stopper.state_dict()
        self._folder.save_state({"course": self._course.state_dict(), "stopper": stopper})
        self._saved = time.monotonic()
