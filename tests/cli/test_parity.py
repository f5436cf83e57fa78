"""`bbx parity`: every stage on the same inputs, a loss pinned to its stage, and what is missing said."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import bbx as package
from bbx import process
from bbx.artifact import read_manifest
from bbx.exporter.engine_options import current_target

MODEL = "sample_nets:tiny"
TINY = "sample_nets-tiny"


def _inline(name: str, request: dict[str, Any], *, listener: Any = process.silent) -> dict[str, Any]:
    module, _, function = name.partition(":")
    with process.listening(listener):
        document: dict[str, Any] = getattr(importlib.import_module(module), function)(
            json.loads(json.dumps(request))
        )
    return document


@pytest.fixture(scope="module")
def made(nets_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the graph of a small net in FP32, FP16 and BF16."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(nets_folder)
        patch.setattr(process, "run_task", _inline)
        for precision in ("fp16", "bf16"):
            package.export(MODEL, precision=precision, out=folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, in_nets_folder: Path) -> Path:
    """The same files in a folder of the test's own."""
    shutil.copytree(made, tmp_path / "own")
    return tmp_path / "own"


def _damaged(path: Path, factor: float = 3.0) -> Path:
    """The graph with one weight multiplied, and without its manifest."""
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), weight.name))
    broken = path.with_name(f"broken.{path.name}")
    onnx.save(model, broken)
    return broken


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_stage_is_compared_on_the_same_inputs(bbx: Any, folder: Path, precision: str) -> None:
    path = folder / f"{TINY}.{precision}.onnx"
    answer = bbx("parity", path, "--json", "-q")
    assert answer.code == 0
    document = answer.document
    assert document["schema"] == "bbx/1"
    assert document["verdict"] == "pass"
    assert document["pinned"] is None
    assert document["against"] == f"torch ({MODEL})"
    stages = document["stages"]
    assert [stage["stage"] for stage in stages] == ["torch", "onnx", "typed"]
    assert [stage["precision"] for stage in stages] == ["fp32", "fp32", precision]
    assert [stage["verdict"] for stage in stages] == [None, "pass", "pass"]
    assert stages[0]["to_first"] is None
    inputs = [(case["batch"], case["input"]) for case in stages[2]["to_first"]["cases"]]
    assert inputs == [(case["batch"], case["input"]) for case in stages[1]["to_first"]["cases"]]
    assert {name for _, name in inputs} == {"photographs", "noise"}
    exact, rounded = (
        max(case["outputs"]["logits"]["rel_l2"] for case in stage["to_first"]["cases"])
        for stage in stages[1:]
    )
    assert exact < 1e-5 < rounded
    assert document["parity"] == stages[2]["to_first"]
    assert document["command"] == f"bbx parity {path}"


def test_a_person_reads_a_table(bbx: Any, folder: Path) -> None:
    answer = bbx("parity", folder / f"{TINY}.fp16.onnx")
    assert answer.code == 0
    first, *rest = answer.stdout.splitlines()
    assert first.startswith("pass: ")
    assert [line.split()[0] for line in rest if line.strip()][:4] == ["stage", "torch", "onnx", "typed"]


def test_a_loss_is_pinned_to_its_stage(bbx: Any, folder: Path) -> None:
    broken = _damaged(folder / f"{TINY}.fp16.onnx")
    answer = bbx("parity", broken, "--against", folder / f"{TINY}.onnx", "--json", "-q")
    assert answer.code == 3
    for part in ("Parity is lost at stage typed", broken.name, "Output 'logits' on ", "relative L2"):
        assert part in answer.error
    assert answer.document["verdict"] == "fail"
    assert answer.document["pinned"] == "typed"
    assert [stage["verdict"] for stage in answer.document["stages"]] == [None, "fail"]
    shown = bbx("parity", broken, "--against", folder / f"{TINY}.onnx")
    assert shown.code == 3
    assert "typed" in shown.stdout


def test_an_older_artefact_may_be_the_reference(bbx: Any, folder: Path) -> None:
    graph, typed = folder / f"{TINY}.onnx", folder / f"{TINY}.fp16.onnx"
    document = bbx("parity", typed, "--against", graph, "--json", "-q").document
    assert [stage["stage"] for stage in document["stages"]] == ["onnx", "typed"]
    assert document["against"] == graph.name


def test_a_model_may_be_the_reference(bbx: Any, folder: Path) -> None:
    broken = _damaged(folder / f"{TINY}.onnx")
    answer = bbx("parity", broken, "--against", MODEL, "--json", "-q")
    assert answer.code == 3
    assert "does not agree with torch (sample_nets:tiny)" in answer.error
    other = bbx("parity", folder / f"{TINY}.onnx", "--against", MODEL, "--seed", 1, "--json", "-q")
    assert other.code == 3
    assert other.document["pinned"] == "onnx"


def test_a_missing_parent_is_said_and_not_guessed(bbx: Any, folder: Path) -> None:
    (folder / f"{TINY}.onnx").rename(folder / "elsewhere.onnx")
    typed = folder / f"{TINY}.fp16.onnx"
    manifest = read_manifest(typed)
    assert manifest is not None
    recorded = Path(manifest.request["source"])
    recorded.rename(recorded.with_suffix(".away"))
    try:
        answer = bbx("parity", typed, "--json", "-q")
    finally:
        recorded.with_suffix(".away").rename(recorded)
    assert answer.code == 0
    assert answer.document["verdict"] == "inconclusive"
    missing, own = answer.document["stages"]
    assert (missing["stage"], missing["ran"]) == ("unknown", False)
    assert str(manifest.parent_sha256)[:12] in missing["reason"]
    assert own["ran"]
    assert answer.document["parity"]["verdict"] == "inconclusive"


def test_a_parent_under_another_name_is_found_by_its_hash(bbx: Any, folder: Path, made: Path) -> None:
    recorded = made / f"{TINY}.onnx"
    recorded.rename(recorded.with_suffix(".away"))
    for suffix in ("", ".json"):
        (folder / f"{TINY}.onnx{suffix}").rename(folder / f"renamed.onnx{suffix}")
    try:
        document = bbx("parity", folder / f"{TINY}.fp16.onnx", "--json", "-q").document
    finally:
        recorded.with_suffix(".away").rename(recorded)
    assert [stage["subject"] for stage in document["stages"]][1] == "renamed.onnx"
    assert document["verdict"] == "pass"


def test_an_engine_that_cannot_run_here_says_so(bbx: Any, folder: Path) -> None:
    target = "sm_86" if current_target() != "sm_86" else "sm_89"
    options = ("--flavor", "rtx", "--target", target, "-q", "-o", folder)
    built = bbx("build-trt", folder / f"{TINY}.onnx", *options)
    assert built.code == 0, built.stderr
    document = bbx("parity", folder / f"{TINY}.engine", "--json", "-q").document
    assert [stage["stage"] for stage in document["stages"]] == ["torch", "onnx", "engine"]
    engine = document["stages"][2]
    assert not engine["ran"]
    assert f"The engine is for {target}" in engine["reason"]
    assert document["verdict"] == "pass"


def test_own_images_take_the_place_of_photographs(bbx: Any, folder: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(5):
        pixels = generator.integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    options = ("--images", tmp_path / "pictures", "--json", "-q")
    document = bbx("parity", folder / f"{TINY}.fp16.onnx", *options).document
    cases = document["stages"][1]["to_first"]["cases"]
    assert sum(case["batch"] for case in cases) == 5
    assert {case["input"] for case in cases} == {"images"}
    assert "--images" in document["command"]
    sizes = bbx("parity", folder / f"{TINY}.fp16.onnx", *options, "--batch", "2,5").document
    cases = sizes["stages"][1]["to_first"]["cases"]
    assert [case["batch"] for case in cases] == [2, 2, 1, 5]
    assert "--batch 2 --batch 5" in sizes["command"]


def test_the_batches_to_compare_at_can_be_named(bbx: Any, folder: Path) -> None:
    document = bbx("parity", folder / f"{TINY}.onnx", "--batch", "5", "--batch", "1", "--json", "-q").document
    cases = document["stages"][1]["to_first"]["cases"]
    assert [(case["batch"], case["input"]) for case in cases] == [
        (5, "photographs"),
        (5, "noise"),
        (1, "photographs"),
        (1, "noise"),
    ]
    fixed = bbx("export", MODEL, "--batch", 2, "-q", "-o", folder / "fixed.onnx")
    assert fixed.code == 0
    assert bbx("parity", folder / "fixed.onnx", "--batch", "2", "-q").code == 0
    refused = bbx("parity", folder / "fixed.onnx", "--batch", "2,3", "-q")
    assert refused.code == 2
    assert "takes 2 images a run, and no other number. Leave --batch out." in refused.error


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("none.onnx",), 1, "There is no file none.onnx."),
        (("sample_nets.py",), 1, "its name must end in one of"),
        (("cut.onnx",), 1, "is not an ONNX graph, or is truncated"),
        (("{broken}",), 1, "no manifest says what it was made from. Type: bbx parity "),
        (("{typed}", "--against", "none.onnx"), 1, "There is no file none.onnx."),
        (("{typed}", "--against", "resnet81"), 1, "There is no preset 'resnet81'. Nearest:"),
        (("{typed}", "--against", "{graph}", "--seed", 3), 2, "Options of a model belong to --against MODEL"),
        (("{typed}", "--seed", 3), 2, "Options of a model belong to --against MODEL"),
        (("{typed}", "--images", "nowhere"), 1, "nowhere"),
        (("{typed}", "--batch", "0"), 2, "A batch of 0 images was asked for. Type 1 or more."),
        (("{typed}", "--batch", "two"), 2, "'two' is no list of whole numbers"),
        (("{typed}", "--against", "resnet18", "--weights", "random"), 1, "takes images (3×16×16)"),
    ],
)
def test_bad_input_is_named(bbx: Any, folder: Path, words: tuple[object, ...], code: int, said: str) -> None:
    graph, typed = folder / f"{TINY}.onnx", folder / f"{TINY}.fp16.onnx"
    Path("cut.onnx").write_bytes(graph.read_bytes()[:300])
    broken = _damaged(graph)
    places = {"{graph}": graph, "{typed}": typed, "{broken}": broken}
    answer = bbx("parity", *(places.get(str(word), word) for word in words), "-q")
    assert answer.code == code
    assert said in answer.error
