"""A quantised artefact is compared on images of the kind that it was calibrated for, at every stage."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bbx.artifact import read_manifest
from bbx.images import photographs
from tests.calibration.graphs import graph, normal

SIDE = 32
FAINT = 0.01
"""How much darker than any photograph the network's own images are."""
SM_86 = ("--flavor", "rtx", "--target", "sm_86")


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network of faint images, `faint.onnx`, and 40 such images, `faint.npy`."""
    folder = tmp_path_factory.mktemp("faint")
    model = graph(
        "(float[N, 3, 32, 32] images) => (float[N, 10] logits) {"
        "a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (images, stem) b = LeakyRelu <alpha = 0.5> (a)"
        "c = Conv <strides = [2, 2]> (b, deep) d = GlobalAveragePool (c) e = Flatten (d)"
        "logits = MatMul (e, head) }",
        {"stem": normal(16, 3, 3, 3), "deep": normal(32, 16, 3, 3, seed=1), "head": normal(32, 10, seed=2)},
    )
    onnx.save(model, folder / "faint.onnx")
    images = FAINT * (normal(40, 3, SIDE, SIDE, seed=3) + 3 * normal(40, 3, 1, 1, seed=4))
    np.save(folder / "faint.npy", images.astype(np.float32))
    return folder


@pytest.fixture
def folder(bbx: Any, quantised: Path, tmp_path: Path) -> Path:
    """The same in a folder of the test's own, with `faint.int8.onnx`."""
    own = Path(shutil.copytree(quantised, tmp_path / "own"))
    words = ("--calib", own / "faint.npy", "--method", "max", "--json", "-q", "-o", own)
    answer = bbx("quantize", own / "faint.onnx", *words)
    assert answer.code == 0, answer.stderr
    return own


def _inputs(parity: dict[str, Any]) -> set[str]:
    return {case["input"] for case in parity["cases"]}


def test_parity_is_of_the_images_that_the_calibration_held_out(bbx: Any, folder: Path) -> None:
    answer = bbx("parity", folder / "faint.int8.onnx", "--json", "-q")
    assert answer.code == 0, answer.stderr
    assert answer.document["verdict"] == "pass"
    assert [case["batch"] for case in answer.document["parity"]["cases"]] == [1, 8, 2]
    assert _inputs(answer.document["parity"]) == {"held-out images"}
    assert answer.document["warnings"] == []


def test_photographs_would_have_failed(bbx: Any, folder: Path) -> None:
    answer = bbx("parity", folder / "faint.int8.onnx", "--images", photographs()[0].parent, "--json", "-q")
    assert answer.code == 3
    assert _inputs(answer.document["parity"]) == {"images"}


def test_batches_that_are_named_take_the_images_in_turn(bbx: Any, folder: Path) -> None:
    answer = bbx("parity", folder / "faint.int8.onnx", "--batch", "3,7,16", "--json", "-q")
    assert answer.code == 0, answer.stderr
    cases = [(case["batch"], case["input"]) for case in answer.document["parity"]["cases"]]
    assert cases == [(3, "held-out images"), (7, "held-out images"), (16, "images of the calibration")]


def test_so_are_16_bits_beside_the_eight(bbx: Any, folder: Path) -> None:
    answer = bbx("build-trt", folder / "faint.int8.onnx", "--int8", "--fp16", *SM_86, "--json", "-q")
    assert answer.code == 0, answer.stderr
    manifest = read_manifest(Path(answer.document["source"]))
    assert manifest is not None
    assert _inputs(manifest.document["parity"]) == {"held-out images"}
    assert [case["batch"] for case in manifest.document["parity"]["cases"]] == [1, 2, 3]
    staged = bbx("parity", answer.document["source"], "--json", "-q")
    stages = [(stage["stage"], stage["precision"], stage["verdict"]) for stage in staged.document["stages"]]
    assert stages == [("onnx", "fp32", None), ("qdq", "int8", "pass"), ("typed", "int8", "pass")]
    assert _inputs(staged.document["parity"]) == {"held-out images"}


def test_and_bisect(bbx: Any, folder: Path) -> None:
    path, fp32 = folder / "faint.int8.onnx", folder / "faint.onnx"
    on_its_own = bbx("bisect", path, "--against", fp32, "--json", "-q", "-o", folder)
    assert on_its_own.code == 0, on_its_own.stderr
    assert on_its_own.document["verdict"] == "nothing_to_find"
    words = ("--images", photographs()[0].parent, "--json", "-q", "-o", folder)
    on_photographs = bbx("bisect", path, "--against", fp32, *words)
    assert on_photographs.document["verdict"] == "found"
    # What is made of it is of the same calibration.
    again = bbx("parity", on_photographs.document["artifact"], "--json", "-q")
    assert _inputs(again.document["parity"]) == {"held-out images"}


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("faint.npy", "The calibration data {folder}/faint.npy is not there any more."),
        ("faint.int8.calibration.json", "There is no calibration record"),
    ],
)
def test_images_that_are_gone_are_said_and_photographs_taken(
    bbx: Any, folder: Path, gone: str, said: str
) -> None:
    (folder / gone).unlink()
    answer = bbx("parity", folder / "faint.int8.onnx", "--json", "-q")
    assert answer.code == 3
    assert _inputs(answer.document["parity"]) == {"photographs"}
    (warning,) = answer.document["warnings"]
    assert warning.startswith("faint.int8.onnx is compared on photographs and not on what its calibration")
    assert said.format(folder=folder) in warning
    assert warning in answer.stderr


def test_a_record_of_another_calibration_is_not_believed(bbx: Any, folder: Path, tmp_path: Path) -> None:
    words = ("--calib", folder / "faint.npy", "--calib-seed", 1, "--method", "max", "--json", "-q")
    other = bbx("quantize", folder / "faint.onnx", *words, "-o", tmp_path / "other")
    assert other.code == 0, other.stderr
    shutil.copy(other.document["calibration"]["record"], folder)
    answer = bbx("parity", folder / "faint.int8.onnx", "--json", "-q")
    assert "is of another calibration" in answer.document["warnings"][0]
    assert _inputs(answer.document["parity"]) == {"photographs"}


def test_an_artefact_and_its_images_may_move_together(bbx: Any, folder: Path, tmp_path: Path) -> None:
    """The record beside the artefact counts, and its `root` may be edited."""
    moved = tmp_path / "moved"
    folder.rename(moved)
    record = moved / "faint.int8.calibration.json"
    record.write_text(record.read_text().replace(str(folder), str(moved)))
    words = ("--against", moved / "faint.onnx", "--json", "-q")
    answer = bbx("parity", moved / "faint.int8.onnx", *words)
    assert answer.code == 0, answer.stderr
    assert _inputs(answer.document["parity"]) == {"held-out images"}


def test_an_engine_and_a_repaired_graph_say_that_they_were_calibrated_on_noise(
    bbx: Any, folder: Path
) -> None:
    noise = ("--allow-random", "--calib-images", 16, "--method", "max")
    answer = bbx("quantize", folder / "faint.onnx", *noise, "--json", "-q", "-o", folder / "noise")
    graph_of_noise = answer.document["artifact"]
    engine = bbx("build-trt", graph_of_noise, "--int8", *SM_86, "--json", "-q", "-o", folder / "noise")
    assert engine.code == 0, engine.stderr
    assert engine.document["calibration"]["random"] is True
    words = ("--against", folder / "faint.onnx", "--tolerance", 1e-4, "--json", "-q", "-o", folder / "noise")
    repaired = bbx("bisect", graph_of_noise, *words)
    assert repaired.document["verdict"] == "found", repaired.stderr
    assert repaired.document["calibration"]["random"] is True
