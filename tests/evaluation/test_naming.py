"""Which number the network has for a class of the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bbx import process
from bbx.errors import BbxError
from bbx.evaluation.naming import numbers_of
from bbx.models.class_names import published_classes
from bbx.types import Task

ANIMALS = ("cat", "guinea pig", "dog")


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (("cat", "guinea pig", "dog"), [0, 1, 2]),
        (("dog", "cat"), [2, 0]),
        (("DOG", "Guinea_Pig", " cat "), [2, 1, 0]),
    ],
)
def test_names_decide(found: Sequence[str], wanted: list[int]) -> None:
    with process.collecting_warnings() as warnings:
        assert numbers_of(found, ANIMALS, 3).tolist() == wanted
    assert not warnings


def test_names_that_differ_in_case_only_are_told_apart() -> None:
    known = ("Cardigan", "cardigan", "crane", "crane")
    assert numbers_of(("Cardigan",), known, 4).tolist() == [0]
    assert numbers_of(("cardigan", "Cardigan"), known, 4).tolist() == [1, 0]
    assert numbers_of(known, known, 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("found", [("CARDIGAN",), ("crane",), ("cat", "Cat")])
def test_a_name_that_could_be_two_classes_is_none(found: Sequence[str]) -> None:
    with pytest.raises(BbxError, match=f"of which .*{found[0]}"):
        numbers_of(found, ("Cardigan", "cardigan", "crane", "crane", "cat"), 5)


@pytest.mark.parametrize("known", [ANIMALS, None])
def test_without_a_common_name_the_order_decides_and_is_said(known: Sequence[str] | None) -> None:
    with process.collecting_warnings() as warnings:
        assert numbers_of(("a", "b", "c"), known, 3).tolist() == [0, 1, 2]
    [warning] = warnings
    assert "taken in the data's order (a, b, c)" in warning
    assert ("it calls them cat, guinea pig, dog" in warning) == (known is not None)


@pytest.mark.parametrize(
    ("found", "known", "count"),
    [
        (
            ("cat", "guinea pig", "wolf"),
            ANIMALS,
            3,
        ),  # where some names agree, order is no guess
        (("a", "b"), ANIMALS, 3),
        (("a", "b"), None, 3),
    ],
)
def test_what_fits_in_no_way_is_listed(found: Sequence[str], known: Sequence[str] | None, count: int) -> None:
    with pytest.raises(
        BbxError, match=rf"The data has {len(found)} classes, of which .* Type --classes FILE"
    ):
        numbers_of(found, known, count)


def test_imagenets_folders_stand_where_published_weights_have_them() -> None:
    """The names that torchvision publishes and the list of folders that timm brings are of one order."""
    names = published_classes("classification", 1000)
    assert names is not None
    folders = ("n02123045", "n01440764", "n15075141")
    numbers = numbers_of(folders, names, 1000)
    assert [names[number] for number in numbers] == ["tabby", "tench", "toilet tissue"]
    assert np.array_equal(numbers_of(folders, None, 1000), numbers)
    with pytest.raises(BbxError, match="n00000000 are no classes of ImageNet-1k"):
        numbers_of(("n00000000",), names, 1000)


@pytest.mark.parametrize(
    ("task", "count", "first"),
    [("detection", 91, "person"), ("detection", 2, "person"), ("segmentation", 21, "aeroplane")],
)
def test_published_names_are_as_many_as_the_classes(task: Task, count: int, first: str) -> None:
    names = published_classes(task, count)
    assert names is not None
    assert (len(names), names[0], names[1]) == (count, "background", first)


def test_of_other_classes_no_names_are_known() -> None:
    assert published_classes("detection", 7) is None
    assert published_classes("classification", None) is None
