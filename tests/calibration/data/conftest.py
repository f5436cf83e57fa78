"""Folders of real pictures, and calibration sets of them for a small input."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bbx import images, process
from bbx.calibration.data.dataset import CalibrationSet, calibration_set
from bbx.calibration.data.options import CalibrationOptions
from bbx.types import Preprocess, TensorSpec

Pictures = Callable[..., list[Path]]
Sample = Callable[..., CalibrationSet]

HOW = Preprocess(32, 32, crop_pct=1.0)
SPECS = (TensorSpec("images", "float32", (None, 3, 32, 32)),)


@cache
def _photographs() -> list[Image.Image]:
    return [images.decode(path).resize((480, 480)) for path in images.photographs()]


def crop(index: int) -> Image.Image:
    """A piece of a photograph, another for every index below 100."""
    photographs = _photographs()
    place = index // len(photographs)
    left, top = 90 * (place % 5), 90 * (place // 5)
    return photographs[index % len(photographs)].crop((left, top, left + 110, top + 110))


@cache
def _encoded(index: int, suffix: str) -> bytes:
    stream = io.BytesIO()
    crop(index).save(stream, Image.registered_extensions()[suffix])
    return stream.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    """Write pieces of photographs into a folder below the test's own."""

    def write(folder: str, count: int, *, start: int = 0, suffix: str = "png") -> list[Path]:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        paths = [tmp_path / folder / f"{index:03d}.{suffix}" for index in range(start, start + count)]
        for index, path in enumerate(paths, start=start):
            path.write_bytes(_encoded(index, path.suffix))
        return paths

    return write


@pytest.fixture
def sample() -> Sample:
    """A calibration set of a source, for a network that takes images of 32 × 32."""

    def make(
        source: Path | None = None,
        *,
        inputs: tuple[TensorSpec, ...] = SPECS,
        preprocess: Preprocess | None = HOW,
        data: Iterable[Any] | None = None,
        **options: Any,
    ) -> CalibrationSet:
        text = None if source is None else str(source)
        return calibration_set(CalibrationOptions(text, **options), inputs, preprocess, data=data)

    return make


@pytest.fixture
def warnings_told() -> Iterator[list[str]]:
    """What the user is warned of meanwhile."""
    with process.collecting_warnings() as texts:
        yield texts
