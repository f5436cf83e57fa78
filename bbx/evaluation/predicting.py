"""The task behind `bbx predict`: what a network sees on pictures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bbx import images, process
from bbx.artifact import disk_errors
from bbx.datasets.files import names_in
from bbx.errors import BbxError
from bbx.evaluation.documents import plain
from bbx.evaluation.drawing import drawn, label_map
from bbx.evaluation.loading import WORKERS, in_order
from bbx.evaluation.subjects import Opened, Subject, opened
from bbx.outputs import Classified, Detected, Result, Segmented, restore
from bbx.types import SCHEMA


@dataclass(frozen=True, slots=True)
class _Picture:
    """A picture, and the row of the network's input that it became."""

    name: str
    image: Image.Image
    row: NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class _Unread:
    """A picture that cannot be decoded, and why."""

    name: str
    error: str


def predict_task(request: dict[str, Any]) -> dict[str, Any]:
    """Look at the pictures that a request names; see `bbx.evaluate_api.predict`.

    Raises:
        BbxError: the artefact cannot be run, or no picture can be decoded.
    """
    subject = Subject.from_request(request["subject"])
    with opened(subject, trust=request["trust"], threads=request["threads"]) as ready:
        means = ready.postprocess
        names = _names(request["classes"], means.classes, means.num_classes)
        folder = None if request["out"] is None else Path(request["out"])
        stems = _stems(request["images"])
        entries: list[dict[str, Any]] = []
        for picture, result in _answers(ready, request["images"], request["batch"]):
            path = None if folder is None else folder / stems[len(entries)]
            entries.append(_entry(picture, result, names, request, path))
    failed = [each for each in entries if "error" in each]
    if len(failed) == len(entries):
        raise BbxError(failed[0]["error"])
    return {
        "schema": SCHEMA,
        "artifact": subject.name,
        "runtime": subject.runtime,
        "precision": subject.precision,
        "task": means.task,
        "images": entries,
    }


def _answers(
    ready: Opened, listed: Sequence[dict[str, str]], batch: int
) -> Iterator[tuple[_Picture | _Unread, Result | None]]:
    """Every picture with what the network says of it; None where it cannot be decoded."""

    def make(item: dict[str, str]) -> _Picture | _Unread:
        try:
            image = images.decode(Path(item["path"]))
        except BbxError as error:
            return _Unread(item["name"], error.message.replace(item["path"], item["name"]))
        return _Picture(item["name"], image, images.apply(image, ready.preprocess))

    size = ready.fixed_batch or batch
    done = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting: list[_Picture | _Unread] = []
        for picture in in_order(make, listed, pool, ahead=2 * size + WORKERS):
            waiting.append(picture)
            done += 1
            if len(waiting) == size or done == len(listed):
                yield from _answered(ready, waiting)
                process.progress("predict", done / len(listed), picture.name)
                waiting = []


def _answered(
    ready: Opened, pictures: Sequence[_Picture | _Unread]
) -> Iterator[tuple[_Picture | _Unread, Result | None]]:
    good = [each for each in pictures if isinstance(each, _Picture)]
    results: list[Result] = []
    if good:
        outputs = ready.infer(np.stack([each.row for each in good]))
        sizes = [each.image.size for each in good]
        results = restore(outputs, ready.preprocess, ready.postprocess, sizes)
    left = iter(results)
    for picture in pictures:
        yield picture, next(left) if isinstance(picture, _Picture) else None


def _entry(
    picture: _Picture | _Unread,
    result: Result | None,
    names: Sequence[str],
    request: dict[str, Any],
    path: Path | None,
) -> dict[str, Any]:
    """What the document says of one picture, which is drawn on the way if it is to be."""
    if isinstance(picture, _Unread):
        process.warn(picture.error)
        return {"image": picture.name, "error": picture.error}
    assert result is not None  # a picture that was read was answered
    if isinstance(result, Detected):
        result = _sure(result, request["min_score"])
    entry = {"image": picture.name, "width": picture.image.width, "height": picture.image.height}
    entry |= _said(result, names, request["top"])
    if path is not None:
        entry |= _drawn(path, picture.image, result, names, request["top"])
    return entry


def _drawn(path: Path, image: Image.Image, result: Result, names: Sequence[str], top: int) -> dict[str, str]:
    """Draw a picture into `PATH.predicted.png`, a label map into `PATH.labels.png`; gives the files."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        files = {"drawn": f"{path}.predicted.png"}
        drawn(image, result, names, top=top).save(files["drawn"])
        if isinstance(result, Segmented):
            files["label_map"] = f"{path}.labels.png"
            label_map(result).save(files["label_map"])
    return files


def _said(result: Result, names: Sequence[str], top: int) -> dict[str, Any]:
    if isinstance(result, Classified):
        best = [
            {"label": int(label), "class": names[label], "probability": float(result.probabilities[label])}
            for label in result.order[:top]
        ]
        return {"labels": plain(best)}
    if isinstance(result, Detected):
        found = [_detection(result, row, names) for row in range(len(result.labels))]
        return {"detections": plain(found), "saturated": result.saturated}
    numbers, pixels = np.unique(result.labels, return_counts=True)
    shares = [
        {"label": int(label), "class": names[label], "share": float(count / result.labels.size)}
        for label, count in zip(numbers, pixels, strict=True)
    ]
    return {"areas": sorted(shares, key=lambda each: -each["share"])}


def _detection(found: Detected, row: int, names: Sequence[str]) -> dict[str, Any]:
    label = int(found.labels[row])
    detection = {
        "label": label,
        "class": names[label],
        "score": float(found.scores[row]),
        "box": found.boxes[row].tolist(),
    }
    if found.masks is not None:
        detection["mask"] = run_lengths(found.masks[row])
    if found.keypoints is not None:
        detection["keypoints"] = found.keypoints[row].tolist()
    return detection


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """A mask [H, W] in COCO's uncompressed run-length code: column by column, beginning with zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = [*changes.tolist(), flat.size]
    counts = np.diff([0, *ends]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat.size and flat[0] else counts}


def _sure(found: Detected, least: float) -> Detected:
    """The detections of a score that is high enough."""
    keep = found.scores >= least
    return replace(
        found,
        boxes=found.boxes[keep],
        scores=found.scores[keep],
        labels=found.labels[keep],
        masks=None if found.masks is None else found.masks[keep],
        keypoints=None if found.keypoints is None else found.keypoints[keep],
    )


def _names(file: str | None, known: Sequence[str] | None, count: int | None) -> Sequence[str]:
    """The names of the network's classes; numbers where nobody knows any."""
    if count is None:
        raise BbxError("The network gives features and no answers.", hint="Export it with a head.")
    names = known if file is None else names_in(Path(file))
    if names is not None and len(names) != count:
        raise BbxError(f"{len(names)} classes are named, and the network has {count}.")
    return names or [f"class {number}" for number in range(count)]


def _stems(listed: Sequence[dict[str, str]]) -> list[str]:
    """A file's name for each picture; where two are called the same, the later ones are numbered."""
    asked = [Path(item["name"]).stem for item in listed]
    taken: set[str] = set()
    found = []
    for stem in asked:
        # A number that makes the name of another picture is left to that.
        free = (f"{stem}-{number}" for number in itertools.count(2))
        name = stem if stem not in taken else next(n for n in free if n not in taken and n not in asked)
        taken.add(name)
        found.append(name)
    return found
