"""Folders of small labelled pictures in the layouts that bbx reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Folders = Callable[..., Path]

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture
def class_folders(tmp_path: Path) -> Folders:
    """Write so many pictures of each colour into a folder named for it."""

    def write(folder: str = "data", count: int = 4, classes: tuple[str, ...] = ("red", "blue")) -> Path:
        for name in classes:
            (tmp_path / folder / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (20, 10), COLOURS[name]).save(tmp_path / folder / name / f"{index}.png")
        return tmp_path / folder

    return write
