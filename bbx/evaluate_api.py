"""Two questions about models and artefacts, in Python: how good are they, and what do they see?"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bbx import process
from bbx.errors import BbxError, UsageError
from bbx.evaluation.subjects import subjects_named
from bbx.making import SPEC_DEFAULTS, command_line

DEFAULT_BATCH = 8

_DEFAULTS: dict[str, Any] = {
    **SPEC_DEFAULTS,
    "split": None,
    "classes": None,
    "runtimes": (),
    "batch": DEFAULT_BATCH,
    "threads": None,
    "max_drop": None,
    "bootstrap_seed": 0,
    "trust": False,
}


def evaluate(
    artefacts: Sequence[str | Path],
    data: str | Path,
    *,
    split: str | None = None,
    classes: str | Path | None = None,
    runtimes: Sequence[str] = (),
    batch: int = DEFAULT_BATCH,
    threads: int | None = None,
    max_drop: float | None = None,
    bootstrap_seed: int = 0,
    trust: bool = False,
    out: Path | str | None = None,
    listener: process.Listener = process.silent,
    **spec_options: Any,
) -> dict[str, Any]:
    """Judge models and artefacts on the same labelled images.

    Args:
        artefacts: checkpoints of `bbx train`, presets, ONNX graphs, TorchScript, pt2 and engines; the others
            are compared with the first.
        data: class folders, a COCO file, `images` and `masks`, or `torchvision:NAME`; see
            `bbx.datasets.open_dataset`.
        split: `train`, `val` or `test`; by default `test`, else `val`, where the data has such parts.
        classes: a file with the network's classes as the data calls them, one a line, in its numbering.
        runtimes: each artefact runs on all of them that take it; by default on what suits it best.
        batch: images at a time, for what takes any number.
        threads: inside an operation, on a CPU.
        max_drop: largest loss of the task's metric against the first, 0..1, that is no failure.
        bootstrap_seed: of the samples that intervals are made from.
        trust: load programs that bbx did not make here.
        out: a folder for the report and the confusion matrices.
        listener: hears progress and warnings.
        **spec_options: of the presets among the artefacts; see `ModelSpec`.

    Returns:
        The document of `bbx eval --json`.

    Raises:
        CheckFailed: an artefact is worse than the first by more than `max_drop`; carries the document.
        UnavailableError: this machine cannot run one of them.
        BbxError: anything else; says why.
    """
    names = [str(each) for each in artefacts]
    if not names:
        raise UsageError("Nothing is named to be judged.", hint="Type: bbx eval ARTIFACT --data DATA")
    subjects = subjects_named(names, runtimes, spec_options)
    shown = {
        **spec_options,
        "split": split,
        "classes": classes,
        "runtimes": tuple(runtimes),
        "batch": batch,
        "threads": threads,
        "max_drop": max_drop,
        "bootstrap_seed": bootstrap_seed,
        "trust": trust,
    }
    request = {
        "subjects": [each.to_request() for each in subjects],
        "data": str(data),
        "split": split,
        "classes": None if classes is None else str(classes),
        "batch": batch,
        "threads": threads,
        "max_drop": max_drop,
        "seed": bootstrap_seed,
        "trust": trust,
        "out": None if out is None else str(out),
        "command": shlex.join(["bbx", "eval", *names]) + _options({"data": str(data), **shown}),
    }
    return process.run_task("bbx.evaluation.run:evaluate_task", request, listener=listener)


def _options(shown: dict[str, Any]) -> str:
    """What stands behind the names in a command line."""
    return command_line("eval", "", shown, _DEFAULTS).removeprefix("bbx eval ''")


STANDARD_INPUT = "standard input"
"""What a picture is called that came without a name."""


def predict(
    artefact: str | Path,
    images: Sequence[str | Path | bytes],
    *,
    runtime: str | None = None,
    classes: str | Path | None = None,
    top: int = 5,
    min_score: float = 0.5,
    batch: int = 1,
    threads: int | None = None,
    trust: bool = False,
    out: Path | str | None = None,
    listener: process.Listener = process.silent,
    **spec_options: Any,
) -> dict[str, Any]:
    """Look at pictures with a model or an artefact.

    Args:
        artefact: as for `evaluate`.
        images: files, folders of them, or the bytes of a file.
        runtime: what runs it; by default what suits it best.
        classes: a file with names for the network's classes, one a line, in its numbering.
        top: labels of a classified picture.
        min_score: detections of a lower score are not reported.
        batch: pictures at a time, for what takes any number.
        threads: inside an operation, on a CPU.
        trust: load a program that bbx did not make here.
        out: a folder for the pictures with what was found drawn on them.
        listener: hears progress and warnings.
        **spec_options: of a preset; see `ModelSpec`.

    Returns:
        The document of `bbx predict --json`; a picture that cannot be decoded has an `error`.

    Raises:
        UnavailableError: this machine cannot run it.
        BbxError: there are no pictures, or none can be decoded.
    """
    (subject,) = subjects_named([str(artefact)], [] if runtime is None else [runtime], spec_options)
    with tempfile.TemporaryDirectory(prefix="bbx-predict-") as folder:
        request = {
            "subject": subject.to_request(),
            "images": _listed(images, Path(folder)),
            "classes": None if classes is None else str(classes),
            "top": top,
            "min_score": min_score,
            "batch": batch,
            "threads": threads,
            "trust": trust,
            "out": None if out is None else str(out),
        }
        return process.run_task("bbx.evaluation.predicting:predict_task", request, listener=listener)


def _listed(images: Sequence[str | Path | bytes], folder: Path) -> list[dict[str, str]]:
    """The name and the file of every picture; bytes are written into `folder`."""
    from bbx.images import image_files

    listed = []
    for number, each in enumerate(images):
        if isinstance(each, bytes):
            path = folder / str(number)
            path.write_bytes(each)
            listed.append({"name": STANDARD_INPUT, "path": str(path)})
            continue
        path = Path(each)
        if not path.exists():
            raise BbxError(f"There is no image {path}.")
        files = image_files(path) if path.is_dir() else [path]
        listed += [{"name": str(file), "path": str(file)} for file in files]
    if not listed:
        raise UsageError("No picture is named.", hint="Type: bbx predict ARTIFACT IMAGE")
    return listed
