"""From what a user names to a dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bbx.datasets.base import Dataset
from bbx.datasets.coco import CocoDetection
from bbx.datasets.folders import SPLITS, ClassFolders, split_folders, subfolders
from bbx.datasets.masks import MaskedImages
from bbx.datasets.named import NamedDataset, is_named, named_splits
from bbx.errors import BbxError, UsageError
from bbx.types import Task

_SMALL_BYTES = 1 << 20
"""A JSON file of more is taken for annotations without being read."""

_LAYOUTS: dict[Task, str] = {
    "classification": "class folders (CLASS/PICTURE.jpg), or torchvision:CIFAR10 and the like",
    "detection": "a COCO .json, or a folder with train.json, val.json or instances_NAME.json",
    "segmentation": "a folder with images/NAME.jpg and masks/NAME.png",
}


def open_dataset(
    data: str, task: Task, *, split: str | None = None, classes: Sequence[str] | None = None
) -> Dataset:
    """The dataset that stands in a folder or a file, or has a name.

    Layouts, each with or without `train`, `val` and `test`: class folders; a COCO file, or a folder with such
    files, also under `annotations`; `images` and `masks`; `torchvision:NAME`.

    Args:
        data: a path, or `torchvision:NAME`.
        task: what is to be done with it.
        split: `train`, `val` or `test`; None takes what has no parts.
        classes: names in the network's numbering; None takes the data's own order.

    Raises:
        UsageError: the data has parts and none was named, or not the one that was.
        BbxError: there is no such data, it is of another task, or contradicts itself.
    """
    parts = splits_of(data, task)
    if split is None and parts:
        raise UsageError(
            f"{data} has the parts {', '.join(parts)}, and none was named.", hint=f"Type: --split {parts[-1]}"
        )
    if split is not None and split not in parts:
        raise UsageError(
            f"{data} has no part {split!r}.",
            hint=f"It has: {', '.join(parts)}." if parts else "It has no parts: name it as a whole.",
        )
    if is_named(data):
        assert split is not None  # torchvision's datasets have parts, so that one was named
        return NamedDataset(data, split, classes)
    path = _parts_of(Path(data), task)[split] if split is not None else Path(data)
    if task == "detection":
        return CocoDetection(_annotations(path), classes)
    if task == "segmentation":
        _require_task(path, task, (path / "images").is_dir() and (path / "masks").is_dir())
        return MaskedImages(path, classes)
    _require_task(path, task, path.is_dir() and not (path / "masks").is_dir() and not _coco_files(path))
    return ClassFolders(path, classes)


def splits_of(data: str, task: Task) -> tuple[str, ...]:
    """The parts that the data has, of `train`, `val` and `test`; empty where it has none.

    Raises:
        UsageError: it is named `torchvision:NAME`, and there is no such dataset or it is of another task.
        BbxError: there is no such data.
    """
    if is_named(data):
        if task != "classification":
            raise UsageError(f"{data} is for classification.", hint=f"For {task}, name {_LAYOUTS[task]}.")
        return named_splits(data)
    path = Path(data)
    if not path.exists():
        raise BbxError(f"There is no data {data}.", hint=f"For {task}, name {_LAYOUTS[task]}.")
    return tuple(_parts_of(path, task))


def _parts_of(path: Path, task: Task) -> dict[str, Path]:
    """Where the parts of a dataset stand, by their names."""
    if not path.is_dir():
        return {}
    folders = split_folders(path)
    if task == "segmentation":
        return {name: each for name, each in folders.items() if (each / "images").is_dir()}
    if task == "classification":
        return {name: each for name, each in folders.items() if subfolders(each) and not _coco_files(each)}
    files = _coco_files(path)
    by_name = {name: file for name in SPLITS if (file := _of_split(name, files)) is not None}
    return by_name or {name: _annotations(each) for name, each in folders.items() if _coco_files(each)}


def _of_split(split: str, files: Sequence[Path]) -> Path | None:
    """The annotation file of a part: `val.json`, `instances_val.json`, `instances_val2017.json`."""
    for file in files:
        word = file.stem.lower().removeprefix("instances_").rstrip("0123456789")
        if word in SPLITS[split]:
            return file
    return None


def _coco_files(folder: Path) -> list[Path]:
    """The annotation files of a folder and of its `annotations`, sorted."""
    places = [place for place in (folder, folder / "annotations") if place.is_dir()]
    return sorted(file for place in places for file in place.glob("*.json") if _may_be_coco(file))


def _may_be_coco(file: Path) -> bool:
    """Whether a JSON file may hold annotations: a small one without images, such as class names, does not."""
    if file.stat().st_size > _SMALL_BYTES:
        return True
    try:
        content = json.loads(file.read_bytes())
    except ValueError:
        return True  # for its reader to say
    return isinstance(content, dict) and "images" in content


def _annotations(path: Path) -> Path:
    """The one annotation file that a path stands for."""
    if path.is_file() and path.suffix.lower() == ".json":
        return path
    files = _coco_files(path) if path.is_dir() else []
    if len(files) > 1:
        names = ", ".join(str(file.relative_to(path)) for file in files[:4])
        raise UsageError(f"{path} has several .json files: {names}.", hint="Name one of them.")
    _require_task(path, "detection", bool(files))
    return files[0]


def _require_task(path: Path, task: Task, fits: bool) -> None:
    if not fits:
        raise BbxError(f"{path} is no data for {task}.", hint=f"Name {_LAYOUTS[task]}.")
