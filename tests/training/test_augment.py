"""What is on a picture stays on it, wherever chance moves it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bbx.datasets import IGNORED, Boxes, Outline
from bbx.models.construct import seeded
from bbx.training.augment import Extras, placed, preparation
from bbx.training.options import AUGMENTS, Augment
from bbx.types import Preprocess

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
FITS = [Preprocess(64, 96, fit=fit, **PLAIN) for fit in ("crop", "stretch", "letterbox")]  # type: ignore[arg-type]
BOX = (30, 20, 70, 50)


def _picture() -> Image.Image:
    """A red rectangle on blue, 120 × 80."""
    image = Image.new("RGB", (120, 80), (0, 0, 200))
    image.paste((220, 0, 0), BOX)
    return image


def _boxes(*boxes: tuple[int, int, int, int], crowd: bool = False) -> Boxes:
    count = len(boxes)
    return Boxes(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.arange(1, count + 1),
        np.full(count, crowd),
        np.ones(count),
    )


def _red(row: Any) -> Any:
    return (row[0] > 0.3) & (row[0] > row[2])


@pytest.mark.parametrize("how", FITS, ids=lambda how: how.fit)
@pytest.mark.parametrize("level", AUGMENTS)
def test_a_box_is_tight_around_its_object(level: Augment, how: Preprocess) -> None:
    prepare = preparation("detection", level, how)
    seen = 0
    for seed in range(12):
        with seeded(seed):
            row, target = prepare(_picture(), _boxes(BOX))
        assert row.shape == (3, 64, 96)
        assert row.dtype == np.float32
        if not len(target["boxes"]):
            continue
        seen += 1
        ys, xs = np.nonzero(_red(row))
        tight = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert np.abs(target["boxes"][0].numpy() - tight).max() <= 2.0, (seed, target, tight)
        assert target["labels"].tolist() == [1]
    assert seen >= 6


OUTLINE: Outline = [[30, 20, 70, 20, 70, 50, 30, 50]]
CORNERS = [[30.0, 20.0, 2.0], [70.0, 20.0, 1.0], [0.0, 0.0, 0.0]]


def _with_parts(*boxes: tuple[int, int, int, int]) -> Boxes:
    return replace(
        _boxes(*boxes), outlines=(OUTLINE,) * len(boxes), keypoints=np.array([CORNERS] * len(boxes))
    )


@pytest.mark.parametrize("how", FITS, ids=lambda how: how.fit)
@pytest.mark.parametrize("level", AUGMENTS)
def test_outlines_and_keypoints_move_with_their_object(level: Augment, how: Preprocess) -> None:
    names = ("left_top", "right_top", "never_labelled")
    prepare = preparation("detection", level, how, Extras(outlines=True, keypoints=names))
    seen = 0
    for seed in range(12):
        with seeded(seed):
            row, target = prepare(_picture(), _with_parts(BOX))
        if not len(target["boxes"]):
            assert target["masks"].shape == (0, 64, 96)
            assert target["keypoints"].shape == (0, 3, 3)
            continue
        seen += 1
        [mask] = target["masks"]
        assert mask.dtype == torch.uint8
        assert (_red(row) != (mask.numpy() == 1)).sum() <= 0.02 * row[0].size, seed
        x1, y1, x2, _ = target["boxes"][0].tolist()
        [points] = target["keypoints"].tolist()
        for (x, y, labelled), corner in zip(points, (x1, x2), strict=False):
            on_the_picture = 0 <= x < how.width and 0 <= y < how.height
            assert labelled == on_the_picture
            if labelled:
                # Mirroring counts pixels and not borders: one pixel of the picture is up to 2.6 here.
                assert abs(x - corner) <= 3.0, (seed, points, target["boxes"])
                assert abs(y - y1) <= 3.0, (seed, points, target["boxes"])
        assert points[2][2] == 0
    assert seen >= 6


def test_left_and_right_change_places_on_a_mirrored_picture_where_they_are_named() -> None:
    how = Preprocess(80, 120, **PLAIN)  # type: ignore[arg-type]

    def turned(names: tuple[str, ...]) -> int:
        """How often the first keypoint is right of the second."""
        prepare, count = preparation("detection", "default", how, Extras(keypoints=names)), 0
        for seed in range(16):
            with seeded(seed):
                _, target = prepare(_picture(), _with_parts(BOX))
            first, second, _ = target["keypoints"][0].tolist()
            count += first[0] > second[0]
        return count

    for names in (
        ("left_top", "right_top", "nose"),
        ("l_top", "r_top", "nose"),
        ("topLeft", "topRight", "l"),
    ):
        assert turned(names) == 0, names
    assert 2 <= turned(("a", "b", "c")) <= 14


def test_a_crowd_is_no_example_and_an_image_may_be_empty() -> None:
    prepare = preparation("detection", "default", FITS[1])
    for boxes in (_boxes(BOX, crowd=True), _boxes()):
        _, target = prepare(_picture(), boxes)
        assert target["boxes"].shape == (0, 4)
        assert target["labels"].shape == (0,)


@pytest.mark.parametrize("how", FITS, ids=lambda how: how.fit)
@pytest.mark.parametrize("level", AUGMENTS)
def test_a_mask_lies_on_its_object(level: Augment, how: Preprocess) -> None:
    mask = np.zeros((80, 120), np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 3
    prepare = preparation("segmentation", level, how)
    for seed in range(8):
        with seeded(seed):
            row, target = prepare(_picture(), mask)
        assert target.shape == (64, 96)
        assert target.dtype == np.int64
        assert set(np.unique(target)) <= {0, 3, IGNORED}
        judged = target != IGNORED
        wrong = (_red(row) != (target == 3)) & judged
        assert wrong.sum() <= 0.06 * judged.sum(), seed


def test_a_mask_is_laid_like_its_image_and_nobody_judges_the_margin() -> None:
    letterbox = Preprocess(64, 64, fit="letterbox")
    laid = placed(np.ones((20, 40), np.uint8), letterbox)
    assert (laid[:32] == 1).all()
    assert (laid[32:] == IGNORED).all()


def test_light_mirrors_nothing_and_default_does() -> None:
    halves = Image.new("RGB", (16, 16), "black")
    halves.paste("white", (0, 0, 8, 16))
    how = Preprocess(16, 16, **PLAIN)  # type: ignore[arg-type]

    def mirrored(level: Augment) -> int:
        prepare, count = preparation("classification", level, how), 0
        for seed in range(16):
            with seeded(seed):
                row, _ = prepare(halves, 0)
            count += bool(row[:, :, -2:].mean() > row[:, :, :2].mean())
        return count

    assert mirrored("light") == 0
    assert 2 <= mirrored("default") <= 14


def test_levels_differ_and_none_draws_nothing() -> None:
    how = Preprocess(32, 32)
    rows = {}
    for level in AUGMENTS:
        with seeded(5):
            rows[level] = preparation("classification", level, how)(_picture(), 2)
            after = float(torch.rand(()))
        with seeded(5):
            untouched = float(torch.rand(()))
        assert (after == untouched) == (level == "none")
        assert rows[level][1] == 2
    assert len({row.tobytes() for row, _ in rows.values()}) == len(AUGMENTS)
