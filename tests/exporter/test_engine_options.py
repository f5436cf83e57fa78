"""Targets, profiles and flavours: what is accepted, and what a wrong one is told."""

from __future__ import annotations

import dataclasses

import pytest

from bbx.errors import UnavailableError, UsageError
from bbx.exporter.engine_options import (
    EngineOptions,
    InputRange,
    ShapeProfile,
    current_target,
    default_profile,
    parse_profile,
    parse_target,
    resolve_flavor,
    resolve_targets,
    supported_targets,
)
from bbx.types import TensorSpec

IMAGE = TensorSpec("image", "float32", (None, 3, 224, 224))
ANY_SIZE = TensorSpec("image", "float32", (None, 3, None, None))
FIXED = TensorSpec("scale", "float32", (1,))
without_gpu = pytest.mark.skipif(current_target() is not None, reason="this machine has a GPU")


@pytest.mark.parametrize("text", ["sm_86", "SM86", "86", "8.6", " sm86 "])
def test_a_target_has_many_spellings(text: str) -> None:
    assert parse_target(text) == "sm_86"


@pytest.mark.parametrize("text", ["", "ampere", "sm_", "sm_8", "1234"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no GPU target"):
        parse_target(text)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"batch": 0}, "batch"),
        ({"workspace_bytes": 0}, "workspace"),
        ({"optimization_level": 6}, "level"),
        ({"flavor": "onnx"}, "flavour"),
        ({"targets": ("nowhere",)}, "target"),
    ],
)
def test_options_are_validated(change: dict[str, object], fragment: str) -> None:
    with pytest.raises(UsageError, match=fragment):
        dataclasses.replace(EngineOptions("rtx"), **change)


def test_targets_are_normalised_and_each_named_once() -> None:
    assert EngineOptions("rtx", targets=("8.6", "sm_120", "SM86")).targets == ("sm_86", "sm_120")


def test_batches_make_a_profile() -> None:
    profile = parse_profile("1,4,8", [IMAGE, FIXED])
    assert profile == ShapeProfile(
        (InputRange("image", (1, 3, 224, 224), (4, 3, 224, 224), (8, 3, 224, 224)),)
    )


@pytest.mark.parametrize("prefix", ["", "image="])
def test_shapes_make_a_profile(prefix: str) -> None:
    profile = parse_profile(f"{prefix}1x3x64x64,2x3x128x96,4x3x256x256", [ANY_SIZE, FIXED])
    assert profile.inputs == (InputRange("image", (1, 3, 64, 64), (2, 3, 128, 96), (4, 3, 256, 256)),)


def test_several_inputs_are_named() -> None:
    mask = TensorSpec("mask", "float32", (None, 1))
    profile = parse_profile("image=1x3x8x8,1x3x8x8,2x3x8x8; mask=1x1,1x1,2x1", [ANY_SIZE, mask])
    assert [entry.name for entry in profile.inputs] == ["image", "mask"]


@pytest.mark.parametrize(
    ("text", "inputs", "fragment"),
    [
        ("8,4,1", [IMAGE], "not ordered"),
        ("0,1,2", [IMAGE], "not ordered"),
        ("1,4", [IMAGE], "is not a profile"),
        ("1x3x64x64,1x3x64x64,one", [IMAGE], "is not a profile"),
        ("1x3x64x64,1x3x64x64,1x3x64x64", [IMAGE], "does not fit"),
        ("1x3,1x3,1x3", [ANY_SIZE], "does not fit"),
        ("1,4,8", [ANY_SIZE], "dynamic beyond the batch"),
        ("picture=1x3x8x8,1x3x8x8,1x3x8x8", [ANY_SIZE], "no input with a dynamic shape"),
        ("image=1x3x8x8,1x3x8x8,1x3x8x8", [ANY_SIZE, TensorSpec("m", "float32", (None,))], "leaves out m"),
        ("1x1,1x1,1x1", [FIXED], "no input with a dynamic shape"),
    ],
)
def test_profiles_that_do_not_fit_are_refused(text: str, inputs: list[TensorSpec], fragment: str) -> None:
    with pytest.raises(UsageError, match=fragment):
        parse_profile(text, inputs)


@pytest.mark.parametrize(("batch", "batches"), [(1, (1, 1, 8)), (4, (1, 4, 8)), (16, (1, 16, 16))])
def test_the_default_profile_is_optimised_for_the_batch(batch: int, batches: tuple[int, int, int]) -> None:
    (entry,) = default_profile([IMAGE, FIXED], batch=batch).inputs
    assert (entry.min[0], entry.opt[0], entry.max[0]) == batches


def test_a_dynamic_size_needs_a_profile() -> None:
    with pytest.raises(UsageError, match="dynamic beyond the batch") as caught:
        default_profile([ANY_SIZE])
    assert "--profile" in caught.value.hint


def test_rtx_targets_are_those_the_library_knows() -> None:
    known = supported_targets("rtx")
    assert {"sm_86", "sm_120"} <= set(known)
    assert "sm_90" not in known
    assert not any("current" in target for target in known)


def test_an_unknown_target_is_told_the_known_ones() -> None:
    with pytest.raises(UsageError, match="sm_90") as caught:
        resolve_targets(EngineOptions("rtx", targets=("sm_86", "sm_90")))
    assert "sm_86" in caught.value.hint


@without_gpu
def test_without_a_gpu_every_target_is_the_default() -> None:
    assert resolve_targets(EngineOptions("rtx")) == supported_targets("rtx")


@without_gpu
def test_without_a_gpu_auto_means_rtx_and_tensorrt_is_unavailable() -> None:
    assert resolve_flavor("auto") == "rtx"
    with pytest.raises(UnavailableError) as caught:
        resolve_flavor("tensorrt")
    assert "--flavor rtx" in caught.value.hint
