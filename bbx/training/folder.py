"""The folder of a run: what it is a run of, its log, its checkpoints and the state it is resumed from.

    run.json                the options, the data and the number of processes
    log.jsonl               a line every few steps and every epoch
    best.safetensors        the weights of the best epoch, with all that using them needs
    last.safetensors        those of the last
    state.pt                everything that going on needs: tensors and plain values only

Every file but the log is written whole or not at all. A torn line at the end of the log belongs to steps that
are done again, and goes when a run is resumed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes

from bbx import artifact
from bbx.errors import ArtifactError, UsageError
from bbx.models.trained import Trained
from bbx.training.options import changed
from bbx.types import SCHEMA

RUN, LOG, STATE = "run.json", "log.jsonl", "state.pt"
BEST, LAST = "best.safetensors", "last.safetensors"


class RunFolder:
    """The files of one run; see the module.

    Args:
        path: the folder.
        writes: whether this process writes; of several, the first does.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self._writes = writes

    def stands(self, run: Mapping[str, Any], *, resume: bool, force: bool) -> bool:
        """Whether there is a state of this run to go on from; changes nothing.

        Args:
            run: what it is: `options` as `TrainOptions.to_request` gives them, `data` and `processes`.
            resume: go on with what is there, if anything is.
            force: begin anew, whatever is there.

        Raises:
            ArtifactError: the folder holds a run, and neither was asked for.
            UsageError: the run that is there is another one; says by what.
        """
        if force:
            return False
        there = self._run_there()
        if not resume and (there is not None or any(map(self._has, (BEST, LAST, STATE)))):
            raise ArtifactError(
                f"{self.path} holds a run already.",
                hint="Add --resume to go on with it, --force to replace it, or choose another --out.",
            )
        if there is None:
            return False
        _require_same(self.path, there, run)
        return self._has(STATE)

    def begin(self, run: Mapping[str, Any]) -> None:
        """Make the folder that of this run, and forget what was in it."""
        if self._writes:
            with artifact.disk_errors(self.path):
                for name in (STATE, RUN, LOG, BEST, LAST):
                    (self.path / name).unlink(missing_ok=True)
            text = json.dumps({"schema": SCHEMA, **run}, indent=2)
            artifact.write_whole(self.path / RUN, f"{text}\n".encode())

    def _has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def _run_there(self) -> dict[str, Any] | None:
        if not self._has(RUN):
            return None
        try:
            found: dict[str, Any] = json.loads((self.path / RUN).read_text())
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{self.path / RUN} cannot be read: {error}.", hint="Add --force to begin anew."
            ) from error
        return found

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        if self._writes:
            with artifact.disk_errors(self.path / LOG), (self.path / LOG).open("a") as stream:
                stream.write(json.dumps(line) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the lines of the log that are of later steps: they are done again."""
        if not self._writes or not self._has(LOG):
            return
        kept = [line for line in (self.path / LOG).read_text().splitlines() if _step_of(line) <= step]
        artifact.write_whole(self.path / LOG, "".join(f"{line}\n" for line in kept).encode())

    def save_weights(self, name: str, weights: Mapping[str, torch.Tensor], trained: Trained) -> None:
        """Write a checkpoint that says of itself what it is.

        Raises:
            ExhaustedError: the disk is full; the file that was there is as it was.
        """
        if self._writes:
            # Copies of their own: safetensors refuses tensors that share memory.
            tensors = {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}
            content = safetensors_bytes(tensors, metadata=trained.to_metadata())
            artifact.write_whole(self.path / name, content)

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Write what `load_state` gives.

        Raises:
            ExhaustedError: the disk is full; the state that was there is as it was.
        """
        if self._writes:
            buffer = io.BytesIO()
            torch.save(dict(state), buffer)
            artifact.write_whole(self.path / STATE, buffer.getvalue())

    def load_state(self) -> dict[str, Any]:
        """What `save_state` wrote last.

        Raises:
            ArtifactError: it is damaged.
        """
        path = self.path / STATE
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file raises whatever the unpickler trips over
            raise ArtifactError(
                f"{path} cannot be read: {type(error).__name__}.", hint="Add --force to begin anew."
            ) from error
        return state


def _step_of(line: str) -> float:
    """The step that a line of the log is of; infinite for one that was torn."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _require_same(path: Path, there: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    different = changed(there["options"], run["options"])
    if there["processes"] != run["processes"]:
        different.append(f"{run['processes']} processes (it was {there['processes']})")
    if different:
        raise UsageError(
            f"{path} holds another run: {', '.join(different)}.",
            hint="Type the same options to resume, or --force to begin anew.",
        )
    if there["data"] != run["data"]:
        raise UsageError(
            f"The data of {path} has changed since the run began.", hint="Add --force to begin anew."
        )
