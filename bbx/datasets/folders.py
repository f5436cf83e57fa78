"""Class folders (`class/picture.jpg`), and the folders of a split above them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from bbx import images, process
from bbx.datasets.base import Dataset
from bbx.datasets.files import few
from bbx.datasets.numbering import numbered
from bbx.errors import BbxError

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Names of the parts of a dataset, and how their folders and files are called."""


class ClassFolders(Dataset):
    """Pictures whose label is the folder that they stand in.

    Raises:
        BbxError: there are no class folders, one is empty, or one is none of the classes that are asked for.
    """

    task = "classification"

    def __init__(self, folder: Path, classes: Sequence[str] | None = None) -> None:
        folders = subfolders(folder)
        if not folders:
            raise BbxError(
                f"{folder} has no class folders, so that its images have no labels.",
                hint="Put the images of each class in a folder with its name: CLASS/PICTURE.jpg.",
            )
        names = [each.name for each in folders]
        places = numbered(names, classes, folder)
        self.classes = tuple(classes or names)
        self._folder = folder
        self._files: list[tuple[Path, int]] = []
        for each, place in zip(folders, places, strict=True):
            self._files += [(path, place) for path in images.image_files(each)]
        _warn_of_strays(folder)

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        return self._files[index][0].relative_to(self._folder).as_posix()

    def image(self, index: int) -> Image.Image:
        return images.decode(self._files[index][0])

    def target(self, index: int) -> int:
        return self._files[index][1]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones."""
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders of a split that a folder has, by `train`, `val` and `test`."""
    found = {each.name.lower(): each for each in subfolders(folder)}
    return {
        split: next(found[name] for name in names if name in found)
        for split, names in SPLITS.items()
        if any(name in found for name in names)
    }


def _warn_of_strays(folder: Path) -> None:
    """Say which pictures stand beside the class folders and have no label."""
    suffixes = Image.registered_extensions()
    strays = sorted(
        path.name for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file()
    )
    if strays:
        process.warn(
            f"{folder}: images beside the class folders have no label and are left out: {few(strays)}."
        )
