from __future__ import annotations

import re

import pytest

from bbx import errors
from bbx.errors import BbxError, CheckFailed, UnavailableError, did_you_mean, error_named, nearest


def _subclasses(root: type[BbxError]) -> set[type[BbxError]]:
    return {root}.union(*(_subclasses(child) for child in root.__subclasses__()))


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = dict(re.findall(r"^ {4}(?:[├└]── )?(\w+) +(\d+)  ", errors.__doc__ or "", re.MULTILINE))
    assert drawn == {kind.__name__: str(kind.exit_code) for kind in _subclasses(BbxError)}


def test_the_exit_codes_are_those_of_the_contract() -> None:
    assert {kind.exit_code for kind in _subclasses(BbxError)} == {1, 2, 3, 4, 5, 6, 130}


def test_an_error_is_its_message_and_what_to_type() -> None:
    error = BbxError("There is no model 'x'.", hint="Nearest: y.")
    assert (error.message, error.hint) == ("There is no model 'x'.", "Nearest: y.")
    assert str(error) == "There is no model 'x'. Nearest: y."
    assert str(BbxError("There is no model 'x'.")) == "There is no model 'x'."
    assert "bbx doctor" in str(UnavailableError("There is no GPU."))
    assert CheckFailed("Too far.", document={"a": 1}).document == {"a": 1}


def test_errors_are_found_by_name() -> None:
    assert all(error_named(kind.__name__) is kind for kind in _subclasses(BbxError))
    assert error_named("KeyError") is BbxError


@pytest.mark.parametrize(
    ("asked", "first"), [("resnet5", "resnet50"), ("ResNet-50", "resnet50"), ("vgg61", "vgg16")]
)
def test_the_nearest_name_comes_first(asked: str, first: str) -> None:
    assert nearest(asked, ["vgg16", "resnet50", "alexnet"])[0] == first


def test_hints_name_what_is_near_or_all_when_they_are_few() -> None:
    assert did_you_mean("fp61", ["fp16", "int8"]) == "Nearest: fp16."
    assert did_you_mean("zzz", ["b", "a"]) == "Known: a, b."
    assert did_you_mean("zzz", [f"name{index}" for index in range(13)]) == ""
    assert len(nearest("resnet", [f"resnet{index}" for index in range(9)])) == 4
