"""The task behind `bbx eval`: artefacts side by side on the same images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bbx import process
from bbx.datasets import Boxes, Dataset, open_dataset, splits_of
from bbx.datasets.files import names_in
from bbx.errors import BbxError, CheckFailed, UsageError
from bbx.evaluation.differences import differences
from bbx.evaluation.documents import class_rows, gate_of, plain, write_report
from bbx.evaluation.passes import Pass, passed
from bbx.evaluation.subjects import Subject, opened
from bbx.types import SCHEMA, Task

_JUDGED_BY = ("test", "val")
"""The part of a dataset that is judged by where none was named, the first that it has; never `train`."""


def evaluate_task(request: dict[str, Any]) -> dict[str, Any]:
    """Evaluate what a request names; see `bbx.evaluate_api.evaluate`.

    Raises:
        CheckFailed: an artefact is worse than the first by more than was allowed.
        BbxError: there is nothing to judge by, or something cannot be run.
    """
    subjects = [Subject.from_request(each) for each in request["subjects"]]
    classes = None if request["classes"] is None else names_in(Path(request["classes"]))
    dataset: Dataset | None = None
    passes: list[Pass] = []
    for subject in subjects:
        process.progress("load", len(passes) / len(subjects), _label(subject))
        with opened(subject, trust=request["trust"], threads=request["threads"]) as ready:
            if dataset is None:
                dataset, split = dataset_for(request["data"], ready.postprocess.task, request["split"])
            made = passed(ready, dataset, batch=request["batch"], label=_label(subject), classes=classes)
        for caution in made.tally.cautions():
            process.warn(f"{_label(subject)}: {caution}")
        passes.append(made)
    assert dataset is not None  # there is a subject
    _warn_of_skipped(passes[0])
    document = {
        "schema": SCHEMA,
        "command": request["command"],
        "data": _data_facts(dataset, request["data"], split, passes[0]),
        "task": dataset.task,
        "metric": passes[0].tally.primary,
        "seed": request["seed"],
        "results": _results(subjects, passes, request["seed"]),
    }
    if document["metric"] not in document["results"][0]["metrics"]:
        raise BbxError(f"{request['data']} has nothing to judge by: there is no object in its images.")
    document["gate"] = gate = gate_of(document["results"], document["metric"], request["max_drop"])
    if request["out"] is not None:
        document["files"] = write_report(document, passes, Path(request["out"]))
    if gate is not None and gate["verdict"] == "fail":
        raise CheckFailed(gate["reason"], document=document)
    return document


def dataset_for(data: str, task: Task, split: str | None) -> tuple[Dataset, str | None]:
    """The images to judge by, and which part of the data they are.

    Args:
        split: None for `test`, else `val`, where the data has such parts.

    Raises:
        UsageError: the data has only a part that models are trained on, or no images.
        BbxError: as `open_dataset`.
    """
    parts = splits_of(data, task)
    if split is None and parts:
        split = next((each for each in _JUDGED_BY if each in parts), None)
        if split is None:
            raise UsageError(
                f"{data} has no part to judge by: it has {', '.join(parts)}.",
                hint=f"Type --split {parts[0]} to judge by what a model may have been trained on.",
            )
    dataset = open_dataset(data, task, split=split)
    if not len(dataset):
        raise UsageError(f"{data} has no images.")
    return dataset, split


def _warn_of_skipped(made: Pass) -> None:
    for each in made.skipped:
        process.warn(f"Left out: {each.reason}")


def _data_facts(dataset: Dataset, data: str, split: str | None, made: Pass) -> dict[str, Any]:
    return {
        "source": data,
        "split": split,
        "images": len(made.tally),
        "classes": list(dataset.classes),
        "skipped": [asdict(each) for each in made.skipped],
        "manifest_sha256": manifest_sha256(dataset),
    }


def manifest_sha256(dataset: Dataset) -> str:
    """SHA-256 of the names of the classes, and of the name and the target of every image."""
    digest = hashlib.sha256("\0".join(dataset.classes).encode())
    for index in range(len(dataset)):
        target = dataset.target(index)
        digest.update(f"\n{dataset.name(index)}\0".encode())
        if isinstance(target, Boxes):
            for values in (target.boxes, target.labels, target.crowd, target.areas):
                digest.update(np.ascontiguousarray(values).tobytes())
            if target.outlines is not None:
                digest.update(json.dumps(target.outlines).encode())
            if target.keypoints is not None:
                digest.update(np.ascontiguousarray(target.keypoints).tobytes())
        elif isinstance(target, np.ndarray):
            digest.update(f"{target.shape}".encode() + np.ascontiguousarray(target).tobytes())
        else:
            digest.update(str(target).encode())
    return digest.hexdigest()


def _results(subjects: Sequence[Subject], passes: Sequence[Pass], seed: int) -> list[dict[str, Any]]:
    base, *others = (each.tally for each in passes)
    apart = [None, *differences(base, others, seed=seed)]
    return [
        {
            "artifact": subject.name,
            "runtime": subject.runtime,
            "precision": subject.precision,
            "metrics": plain(made.tally.result()),
            "per_class": class_rows(made.tally, made.classes),
            "difference": None if apart[place] is None else plain(apart[place]),
            "flips": None if place == 0 else asdict(base.flips(made.tally)),
            "images_per_s": made.images_per_s,
        }
        for place, (subject, made) in enumerate(zip(subjects, passes, strict=True))
    ]


def _label(subject: Subject) -> str:
    return f"{subject.name} on {subject.runtime}"
