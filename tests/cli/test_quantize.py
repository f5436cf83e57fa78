"""`bbx quantize` and eight-bit engines: the documents, the proofs, and every way to go wrong."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from bbx import api, process
from bbx.artifact import read_manifest, sha256_of
from bbx.calibration.data.record import read_record
from bbx.exporter.typed_policy import stays_float32
from bbx.images import file_batch
from bbx.runners.ort import OrtRunner
from bbx.worth import worth
from tests.calibration.graphs import graph, normal
from tests.performance.crops import crops

SIDE = 32
_NETS = '''
import torch
from torch import nn


class Signed(nn.Module):
    """Every stage but one is linear, so that seeded weights tell images apart without training."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.point = nn.Conv2d(16, 64, 1, bias=False)
        self.head = nn.Linear(64 * 16, 10, bias=False)

    def forward(self, images):
        maps = nn.functional.leaky_relu(self.norm(self.stem(images)), 0.5)
        maps = self.point(self.deep(maps))
        return self.head(nn.functional.adaptive_avg_pool2d(maps, 4).flatten(1))


def signed():
    return Signed(), torch.zeros(1, 3, 32, 32)
'''
LAYERS = 4


@pytest.fixture(scope="module")
def nets_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which `quantize_nets:signed` is a model."""
    folder = tmp_path_factory.mktemp("quantize-nets")
    (folder / "quantize_nets.py").write_text(_NETS)
    return folder


@pytest.fixture(scope="module")
def exported(nets_here: Path) -> Path:
    """That model's FP32 graph, with its manifest."""

    def run_here(
        name: str, request: dict[str, Any], *, listener: process.Listener = process.silent
    ) -> dict[str, Any]:
        module, _, function = name.partition(":")
        made: dict[str, Any] = getattr(importlib.import_module(module), function)(request)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(nets_here)
        patch.setattr(process, "run_task", run_here)
        document = api.export("quantize_nets:signed", out=nets_here / "fp32")
    return Path(document["artifact"])


@pytest.fixture(scope="module")
def crops_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen crops of photographs."""
    folder = tmp_path_factory.mktemp("crops")
    for index, crop in enumerate(crops(16, 0)):
        crop.resize((48, 48)).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture
def pictures(crops_folder: Path, tmp_path: Path) -> Path:
    """The same in a folder that a test may change."""
    return Path(shutil.copytree(crops_folder, tmp_path / "pictures"))


def _quantised(bbx: Any, *words: Any) -> dict[str, Any]:
    answer = bbx("quantize", *words, "--json", "-q")
    assert answer.code == 0, answer.stderr
    document: dict[str, Any] = answer.document
    return document


def _operators(path: Path | str) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


# --- the document ------------------------------------------------------------------------------------


def test_the_document_has_every_field(bbx: Any, exported: Path, crops_folder: Path, tmp_path: Path) -> None:
    document = _quantised(bbx, exported, "--calib", crops_folder, "-o", tmp_path)
    path = tmp_path / "quantize_nets-signed.int8.onnx"
    assert document["schema"] == "bbx/1"
    assert document["artifact"] == str(path)
    assert (document["format"], document["precision"]) == ("onnx", "int8")
    assert document["sha256"] == sha256_of(path)
    assert [spec["name"] for spec in document["inputs"]] == ["images"]
    assert [spec["shape"] for spec in document["outputs"]] == [[None, 10]]
    assert document["parity"]["verdict"] in ("pass", "inconclusive")
    cases = document["parity"]["cases"]
    assert {case["input"] for case in cases} == {"held-out images"}
    assert [case["batch"] for case in cases][:2] == [1, document["calibration"]["held_out"]]
    assert {"build", "export", "verify", "total"} <= document["seconds"].keys()
    assert document["command"].startswith("bbx quantize ")
    calibration = document["calibration"]
    assert (calibration["method"], calibration["images"], calibration["held_out"]) == ("auto", 12, 4)
    assert calibration["random"] is False
    assert calibration["seconds"] > 0
    assert calibration["peak_rss_bytes"] > 10 * 1024**2
    record = read_record(Path(calibration["record"]))
    assert calibration["manifest_sha256"] == record.sha256
    assert {image.path for image in record.images} == {each.name for each in crops_folder.iterdir()}
    assert len(document["quantized_nodes"]) + len(document["kept_nodes"]) == LAYERS
    assert document["accuracy"]["metric"] == "top1_agreement"
    assert document["error"]["rel_l2"] < 0.1
    assert path.stat().st_size < 0.5 * exported.stat().st_size


def test_the_recorded_command_gives_the_same_bytes(
    bbx: Any, exported: Path, crops_folder: Path, tmp_path: Path
) -> None:
    options = ("--method", "percentile:99.9", "--max-drop", "40%", "--keep", "*linear", "--calib-seed", 3)
    first = _quantised(bbx, exported, "--calib", crops_folder, *options, "-o", tmp_path / "one")
    words = shlex.split(first["command"])
    again = bbx(*words[1:], "--json", "-q", "-o", tmp_path / "two").document
    assert again["sha256"] == first["sha256"]
    assert again["calibration"]["manifest_sha256"] == first["calibration"]["manifest_sha256"]


def test_a_person_reads_what_was_done(bbx: Any, exported: Path, crops_folder: Path, tmp_path: Path) -> None:
    answer = bbx("quantize", exported, "--calib", crops_folder, "--keep", "*linear", "-q", "-o", tmp_path)
    assert answer.code == 0, answer.stderr
    assert "12 images, 4 held out" in answer.stdout
    assert f"{LAYERS - 1} quantised, 1 kept" in answer.stdout
    assert "asked for: --keep *linear" in answer.stdout
    assert "top1_agreement" in answer.stdout


def test_each_refinement_shows_its_gain(bbx: Any, exported: Path, crops_folder: Path, tmp_path: Path) -> None:
    words = ("quantize", exported, "--calib", crops_folder, "--refine", "-o", tmp_path, "-q")
    answer = bbx(*words, "--json")
    assert answer.code == 0, answer.stderr
    steps = answer.document["refinement"]
    assert [step["step"] for step in steps] == ["equalise", "rounding", "bias"]
    assert [step["kept"] for step in steps] == [step["after"] < 0.98 * step["before"] for step in steps]
    assert [len(step["layers"]) for step in steps] == [0, LAYERS, LAYERS]
    lines = [line for line in bbx(*words).stdout.splitlines() if line.startswith("refined ")]
    assert lines == [
        f"refined   {step['step']}: relative L2 {step['before']:.2e} to {step['after']:.2e} "
        f"on held-out images{'' if step['kept'] else ', undone'}"
        for step in steps
    ]


def test_a_model_by_name_is_exported_on_the_way(
    bbx: Any, nets_here: Path, crops_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nets_here)
    document = _quantised(
        bbx, "quantize_nets:signed", "--calib", crops_folder, "--method", "max", "--fp16", "-o", tmp_path
    )
    names = ["signed.fp16.onnx", "signed.int8.fp16.onnx", "signed.int8.onnx", "signed.onnx"]
    found = sorted(path.name.removeprefix("quantize_nets-") for path in tmp_path.glob("*.onnx"))
    assert found == names[1:]
    assert document["artifact"].endswith("signed.int8.fp16.onnx")
    assert document["precision"] == "int8"
    assert document["calibration"]["images"] == 12
    types = {tensor.data_type for tensor in onnx.load(document["artifact"]).graph.initializer}
    assert {TensorProto.INT8, TensorProto.FLOAT16} <= types


def test_fp8_weights_are_stored_as_e4m3(bbx: Any, exported: Path, crops_folder: Path, tmp_path: Path) -> None:
    document = _quantised(bbx, exported, "--fp8", "--calib", crops_folder, "--method", "max", "-o", tmp_path)
    assert document["precision"] == "fp8"
    assert document["artifact"].endswith(".fp8.onnx")
    stored = [t for t in onnx.load(document["artifact"]).graph.initializer if t.name.endswith("_quantized")]
    assert {tensor.data_type for tensor in stored} == {TensorProto.FLOAT8E4M3FN}
    assert len(stored) == LAYERS


def test_noise_is_taken_where_it_is_allowed_and_the_artefact_says_so(
    bbx: Any, exported: Path, tmp_path: Path
) -> None:
    options = ("--allow-random", "--calib-images", 16, "--method", "max")
    answer = bbx("quantize", exported, *options, "--json", "-o", tmp_path)
    assert answer.code == 0, answer.stderr
    assert "This is noise and no calibration data" in answer.stderr
    manifest = read_manifest(Path(answer.document["artifact"]))
    assert manifest is not None
    assert manifest.document["calibration"]["random"] is True
    assert any("noise" in warning for warning in manifest.document["warnings"])


# --- reuse -------------------------------------------------------------------------------------------


def test_it_is_reused_until_an_image_changes(
    bbx: Any, exported: Path, pictures: Path, tmp_path: Path
) -> None:
    words = (exported, "--calib", pictures, "--method", "max", "-o", tmp_path / "out")
    first = _quantised(bbx, *words)
    second = _quantised(bbx, *words)
    assert (first["reused"], second["reused"]) == (False, True)
    assert second["sha256"] == first["sha256"]
    shutil.copy(pictures / "01.png", pictures / "00.png")
    third = _quantised(bbx, *words)
    assert third["reused"] is False
    assert third["calibration"]["manifest_sha256"] != first["calibration"]["manifest_sha256"]
    (pictures / "00.png").unlink()
    assert _quantised(bbx, *words)["reused"] is False
    assert _quantised(bbx, *words)["reused"] is True
    assert _quantised(bbx, *words, "--calib-seed", 1)["reused"] is False


# --- accuracy ----------------------------------------------------------------------------------------


@pytest.fixture
def bad_scales(exported: Path, tmp_path: Path) -> Path:
    """Scales with which every quantised layer reads nothing but zeros."""
    model = onnx.load(str(exported))
    makers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    path = tmp_path / "bad.json"
    scales = {node.input[0]: 1e6 for node in makers}
    path.write_text(json.dumps({"schema": "bbx/1", "kind": "scales", "scales": scales}))
    return path


def test_a_budget_that_cannot_be_met_is_exit_3_and_a_failed_artefact(
    bbx: Any, exported: Path, crops_folder: Path, bad_scales: Path, tmp_path: Path
) -> None:
    options = ("--scales", bad_scales, "--max-drop", "0.5%", "--method", "max")
    answer = bbx(
        "quantize", exported, "--calib", crops_folder, *options, "--json", "-q", "-o", tmp_path / "out"
    )
    assert answer.code == 3
    assert "The accuracy budget cannot be met: top1_agreement falls by" in answer.error
    assert "allows 0.50%" in answer.error
    failed = tmp_path / "out" / "quantize_nets-signed.int8.failed.onnx"
    assert [path.name for path in (tmp_path / "out").glob("*.onnx")] == [failed.name]
    manifest = read_manifest(failed)
    assert manifest is not None
    accuracy = manifest.document["accuracy"]
    assert accuracy["met"] is False
    assert accuracy["drop"] > accuracy["max_drop"] == 0.005


def test_lost_parity_says_what_to_type(bbx: Any, exported: Path, bad_scales: Path, tmp_path: Path) -> None:
    """Of somebody's own graph, whose weights nobody drew at random."""
    graph, images = tmp_path / "net.onnx", tmp_path / "images.npy"
    shutil.copy(exported, graph)
    np.save(images, np.random.default_rng(0).standard_normal((24, 3, SIDE, SIDE)).astype(np.float32))
    answer = bbx(
        "quantize", graph, "--calib", images, "--scales", bad_scales, "-o", tmp_path / "out", "--json", "-q"
    )
    assert answer.code == 3
    failed = tmp_path / "out" / "net.int8.failed.onnx"
    assert f"{failed} does not agree with net.onnx" in answer.error
    hint = answer.document["error"]["hint"]
    assert hint.startswith("Type --refine")
    command = re.search(r"bbx (bisect .+) names the layers", hint)
    assert command is not None
    found = bbx(*shlex.split(command[1]), "--json", "-q")
    assert found.code == 0, found.stderr
    assert found.document["nodes"]


def test_layers_of_a_network_with_convolutions_as_shortcuts_are_put_back(
    bbx: Any, crops_folder: Path, tmp_path: Path
) -> None:
    """Which convolution takes a sum in depends on which are in eight bits; all are tried once without one."""
    options = ("--weights", "random", "--image-size", 64, "--method", "percentile:90", "--max-drop", "0%")
    answer = bbx("quantize", "resnet18", *options, "--calib", crops_folder, "--json", "-q", "-o", tmp_path)
    assert answer.code in (0, 3), answer.stderr
    accuracy = answer.document["accuracy"]
    assert accuracy["metric"] == "top1_agreement"
    assert accuracy["met"] == (answer.code == 0)
    assert accuracy["before_control"] > 0, "a budget that is kept at once puts nothing back"


def test_a_budget_that_is_kept_says_so(bbx: Any, exported: Path, crops_folder: Path, tmp_path: Path) -> None:
    document = _quantised(bbx, exported, "--calib", crops_folder, "--max-drop", "0.5", "-o", tmp_path)
    accuracy = document["accuracy"]
    assert (accuracy["met"], accuracy["max_drop"], accuracy["put_back"]) == (True, 0.5, [])
    assert accuracy["drop"] == accuracy["before_control"] <= 0.5


def test_one_bad_scale_is_bought_back_by_its_layer(
    bbx: Any, exported: Path, crops_folder: Path, bad_scales: Path, tmp_path: Path
) -> None:
    given = json.loads(bad_scales.read_text())
    given["scales"] = dict(list(given["scales"].items())[:1])
    bad_scales.write_text(json.dumps(given))
    options = ("--scales", bad_scales, "--max-drop", "0.5%", "--method", "max")
    document = _quantised(bbx, exported, "--calib", crops_folder, *options, "-o", tmp_path / "out")
    (layer,) = document["accuracy"]["put_back"]
    assert document["accuracy"]["before_control"] > 0.005 >= document["accuracy"]["drop"]
    assert layer["cost_bytes"] == 3 * 16 * 3 * 9
    # The printed distance is that of the graph that was written.
    assert document["error"]["rel_l2"] < 0.1
    assert [node["name"] for node in document["kept_nodes"]] == [layer["name"]]
    assert len(document["quantized_nodes"]) == LAYERS - 1


def test_labels_give_top1(bbx: Any, crops_folder: Path, tmp_path: Path) -> None:
    words = ("timm:test_resnet", "--weights", "random", "--image-size", 64, "--num-classes", 2)
    source = Path(bbx("export", *words, "--json", "-q", "-o", tmp_path).document["artifact"])
    manifest = read_manifest(source)
    assert manifest is not None
    assert manifest.preprocess is not None
    paths = sorted(crops_folder.iterdir())
    with OrtRunner(source) as runner:
        classes = runner.infer({"images": file_batch(paths, manifest.preprocess)})["logits"].argmax(1)
    # Three images in four are labelled with the class that FP32 gives them, the others with the other one.
    labels = [int(number) if index % 4 else 1 - int(number) for index, number in enumerate(classes)]
    for path, label in zip(paths, labels, strict=True):
        (tmp_path / "labelled" / ("ant", "bee")[label]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "labelled" / ("ant", "bee")[label])
    (tmp_path / "list.txt").write_text(
        "".join(f"{path}\t{label}\n" for path, label in zip(paths, labels, strict=True))
    )
    for given in ("labelled", "list.txt"):
        options = ("--eval-data", tmp_path / given, "--method", "max")
        document = _quantised(bbx, source, "--calib", crops_folder, *options, "-o", tmp_path / "judged")
        accuracy = document["accuracy"]
        assert (accuracy["metric"], accuracy["of"], accuracy["fp32"]) == ("top1", 16, 0.75)
        assert accuracy["drop"] == pytest.approx(accuracy["fp32"] - accuracy["int8"])
        assert any("some of the evaluation" in warning for warning in document["warnings"])
    held_out = _quantised(bbx, source, "--calib", tmp_path / "labelled", "-o", tmp_path / "held-out")
    assert (held_out["accuracy"]["metric"], held_out["accuracy"]["of"]) == ("top1", 4)
    # Labels that do not fit: a number too large, folders of a third class, and never what FP32 says.
    (tmp_path / "large.txt").write_text("".join(f"{path}\t2\n" for path in paths))
    shutil.copytree(tmp_path / "labelled", tmp_path / "three")
    (tmp_path / "three" / "cat").mkdir()
    shutil.copy(paths[0], tmp_path / "three" / "cat")
    (tmp_path / "wrong.txt").write_text(
        "".join(f"{path}\t{1 - int(number)}\n" for path, number in zip(paths, classes, strict=True))
    )
    for given, said in (
        ("large.txt", "An image has the label 2, and the network's 2 classes are numbered from 0"),
        ("three", "The images are of 3 classes, such as 'ant', and these are not the network's 2"),
        ("wrong.txt", "FP32 has a top1 of 0"),
    ):
        options = ("--eval-data", tmp_path / given, "--method", "max")
        document = _quantised(bbx, source, "--calib", crops_folder, *options, "-o", tmp_path / "judged")
        assert document["accuracy"]["metric"] == "top1_agreement"
        assert any(said in warning for warning in document["warnings"]), document["warnings"]


# --- scales, layers by name, other graphs -------------------------------------------------------------


def test_the_scales_beside_an_artefact_give_it_again(
    bbx: Any, exported: Path, crops_folder: Path, tmp_path: Path
) -> None:
    words = (exported, "--calib", crops_folder, "--method", "mse")
    first = _quantised(bbx, *words, "-o", tmp_path / "one")
    again = _quantised(bbx, *words, "--scales", first["calibration"]["scales"], "-o", tmp_path / "two")
    assert again["sha256"] == first["sha256"]
    assert set(again["calibration"]["methods"].values()) == {"given"}


def test_a_record_gives_the_same_images_again(
    bbx: Any, exported: Path, pictures: Path, tmp_path: Path
) -> None:
    first = _quantised(bbx, exported, "--calib", pictures, "--calib-images", 10, "-o", tmp_path / "one")
    record = first["calibration"]["record"]
    again = _quantised(bbx, exported, "--calib", record, "-o", tmp_path / "two")
    assert again["sha256"] == first["sha256"]
    assert again["calibration"]["manifest_sha256"] == first["calibration"]["manifest_sha256"]
    with (pictures / read_record(Path(record)).images[0].path).open("ab") as stream:
        stream.write(b"more")
    answer = bbx("quantize", exported, "--calib", record, "-q", "-o", tmp_path / "three")
    assert answer.code == 1
    assert "is not what it was" in answer.error
    assert not (tmp_path / "three").exists() or not list((tmp_path / "three").iterdir())


def test_anybodys_graph(bbx: Any, crops_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, stride=2), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(32, 10),
    ).eval()  # fmt: skip
    for values in module[1].state_dict().values():
        values.copy_(torch.rand(values.shape) + 0.5)
    path = tmp_path / "theirs.onnx"
    torch.onnx.export(
        module,
        (torch.zeros(2, 3, SIDE, SIDE),),
        path,
        input_names=["pixels"],
        output_names=["scores"],
        dynamic_axes={"pixels": {0: "n"}},
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        dynamo=False,
        opset_version=12,
        verbose=False,
    )
    assert "BatchNormalization" in _operators(path)
    document = _quantised(bbx, path, "--calib", crops_folder, "-o", tmp_path / "out")
    assert document["weights"] == "file"
    assert document["parity"]["verdict"] == "pass"
    found = _operators(document["artifact"])
    assert "BatchNormalization" not in found
    assert found.count("QuantizeLinear") == len(document["quantized_nodes"])


def test_a_graph_that_transposes_its_weights_itself(bbx: Any, tmp_path: Path) -> None:
    """As exporters leave it that fold no constants; bisect puts back the weights as they were."""
    text = """(float[N,8] x) => (float[N,4] y) {
        t = Transpose<perm=[1,0]>(w)
        [one] a = MatMul(x, t)
        b = Relu(a)
        i = Identity(v)
        [two] y = MatMul(b, i)
        }"""
    path, rows = tmp_path / "theirs.onnx", tmp_path / "rows.npy"
    onnx.save(graph(text, {"w": normal(16, 8), "v": normal(16, 4, seed=1)}), path)
    np.save(rows, normal(48, 8, seed=2))
    document = _quantised(bbx, path, "--calib", rows, "--method", "max", "-o", tmp_path)
    assert document["quantized_nodes"] == ["one", "two"]
    words = ("bisect", document["artifact"], "--against", path, "--tolerance", "0.001")
    found = bbx(*words, "--json", "-q", "-o", tmp_path / "repaired")
    assert found.code == 0, found.stderr
    assert [node["name"] for node in found.document["nodes"]] == ["one", "two"]


# --- what is refused ----------------------------------------------------------------------------------


@pytest.fixture
def refused(bbx: Any, tmp_path: Path) -> Callable[..., str]:
    """Quantise something that must fail, and give the one line that it writes."""

    def run(code: int, *words: Any) -> str:
        answer = bbx("quantize", *words, "-q", "-o", tmp_path / "out")
        assert answer.code == code, answer.stderr
        left = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix != ".lock"]
        assert left == []
        error: str = answer.error
        return error

    return run


@pytest.mark.parametrize("what", ["resnet18", "a file"])
def test_without_images_there_is_no_calibration(
    refused: Callable[..., str], exported: Path, what: str
) -> None:
    error = refused(2, exported if what == "a file" else what)
    assert "--int8 needs images to calibrate on" in error
    assert "--calib" in error


def test_an_empty_folder(refused: Callable[..., str], exported: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no image files" in refused(1, exported, "--calib", tmp_path / "empty")


def test_a_folder_of_text_files(refused: Callable[..., str], exported: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for index in range(3):
        (tmp_path / "texts" / f"{index}.txt").write_text("no picture")
    assert "texts" in refused(1, exported, "--calib", tmp_path / "texts")
    for index in range(3):
        (tmp_path / "texts" / f"{index}.jpg").write_text("no picture either")
    assert "cannot be decoded" in refused(1, exported, "--calib", tmp_path / "texts")


def test_one_image(refused: Callable[..., str], exported: Path, crops_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(crops_folder / "00.png", tmp_path / "one")
    assert "takes at least 2" in refused(1, exported, "--calib", tmp_path / "one")
    assert "is one image" in refused(1, exported, "--calib", tmp_path / "one" / "00.png")


def test_a_folder_that_is_not_there(refused: Callable[..., str], exported: Path, tmp_path: Path) -> None:
    assert "there is no such file" in refused(2, exported, "--calib", tmp_path / "nowhere")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_arrays_that_are_not_finite(
    refused: Callable[..., str], exported: Path, tmp_path: Path, value: float
) -> None:
    rows = np.zeros((8, 3, SIDE, SIDE), np.float32)
    rows[3, 1, 2, 3] = value
    np.save(tmp_path / "rows.npy", rows)
    error = refused(1, exported, "--calib", tmp_path / "rows.npy")
    assert "NaN" in error or "infinity" in error
    assert "3" in error


def test_a_graph_that_is_quantised_already(
    bbx: Any, refused: Callable[..., str], exported: Path, crops_folder: Path, tmp_path: Path
) -> None:
    words = ("--calib", crops_folder, "--method", "max")
    made = _quantised(bbx, exported, *words, "-o", tmp_path / "first")["artifact"]
    error = refused(1, made, *words)
    assert "quantised already" in error
    assert "Name the FP32 graph" in error


def test_an_operator_that_nobody_knows(
    refused: Callable[..., str], crops_folder: Path, tmp_path: Path
) -> None:
    shape = f"float[N,3,{SIDE},{SIDE}]"
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20, "their.own" : 1]> '
        f"g ({shape} x) => ({shape} y) {{ m = Conv(x, w) \n n = their.own.Magic(m) \n y = Conv(m, w) }}"
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w"))
    onnx.save(model, str(tmp_path / "magic.onnx"))
    error = refused(1, tmp_path / "magic.onnx", "--calib", crops_folder)
    assert "their.own" in error
    assert "Magic" in error


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (2, ("--method", "best"), "no calibration method 'best'"),
        (2, ("--keep", "stemm*"), "--keep stemm* matches no layer"),
        (2, ("--max-drop", "150%"), "--max-drop is 150.0%"),
        (2, ("--max-drop", "little"), "no share"),
        (2, ("--calib-images", 1), "at least 2"),
        (2, ("--calib-batch", 0), "batch"),
        (2, ("--int8", "--fp8"), "do not go together"),
        (2, ("--fp16", "--bf16"), "do not go together"),
        (2, ("--image-size", 64), "--image-size comes too late"),
        (2, ("--scales", "nowhere.json"), "--scales nowhere.json: there is no such file"),
    ],
)
def test_wrong_options(  # noqa: PLR0917 - a table
    refused: Callable[..., str], exported: Path, crops_folder: Path, code: int, words: Any, said: str
) -> None:
    assert said in refused(code, exported, "--calib", crops_folder, *words)


def test_wrong_options_are_refused_before_any_work(
    refused: Callable[..., str], crops_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bbx.process.run_task", lambda *_, **__: pytest.fail("work was begun"))
    assert "no calibration method" in refused(2, "resnet18", "--calib", crops_folder, "--method", "best")
    assert "--max-drop" in refused(2, "resnet18", "--calib", crops_folder, "--max-drop", "2")


def test_scales_of_another_graph(
    refused: Callable[..., str], exported: Path, crops_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "scales.json"
    path.write_text(json.dumps({"schema": "bbx/1", "kind": "scales", "scales": {"elsewhere": 0.5}}))
    assert "'elsewhere'" in refused(2, exported, "--calib", crops_folder, "--scales", path)


# --- engines and detectors ----------------------------------------------------------------------------

SM_86 = ("--flavor", "rtx", "--target", "sm_86")


def test_an_int8_engine_holds_int8_weights(bbx: Any, crops_folder: Path, tmp_path: Path) -> None:
    options = ("--weights", "random", "--image-size", 64, "--calib", crops_folder, "--method", "max")
    answer = bbx("build-trt", "resnet18", "--int8", *options, *SM_86, "--json", "-q", "-o", tmp_path)
    assert answer.code == 0, answer.stderr
    precision = answer.document["precision"]
    assert (precision["requested"], precision["verdict"]) == ("int8", "pass")
    stored = {name: found["weight_bytes"] for name, found in precision["achieved"].items()}
    assert stored["int8"] >= 0.95 * sum(stored.values()) > 11e6
    assert Path(answer.document["engine"]).stat().st_size < 20e6


def test_the_rest_of_an_int8_engine_may_be_fp16(
    bbx: Any, exported: Path, crops_folder: Path, tmp_path: Path
) -> None:
    words = ("--int8", "--fp16", "--calib", crops_folder, "--method", "max", *SM_86)
    answer = bbx("build-trt", exported, *words, "--json", "-q", "-o", tmp_path)
    assert answer.code == 0, answer.stderr
    typed = tmp_path / "quantize_nets-signed.int8.fp16.onnx"
    assert answer.document["source_sha256"] == sha256_of(typed)
    precision = answer.document["precision"]
    assert (precision["requested"], precision["verdict"]) == ("int8", "pass")
    assert set(precision["achieved"]) == {"int8"}
    scales = [t for t in onnx.load(str(typed)).graph.initializer if t.name.endswith("_scale")]
    assert {tensor.data_type for tensor in scales} == {TensorProto.FLOAT16}


def test_an_fp8_engine_needs_a_gpu_that_has_fp8(
    bbx: Any, exported: Path, crops_folder: Path, tmp_path: Path
) -> None:
    words = (exported, "--fp8", "--calib", crops_folder, "--method", "max", "--flavor", "rtx")
    answer = bbx("build-trt", *words, "--target", "sm_86", "--target", "sm_89", "-q", "-o", tmp_path)
    assert answer.code == 2
    assert "sm_86 has no FP8" in answer.error
    assert "sm_89, " in answer.error
    assert list(tmp_path.iterdir()) == []
    answer = bbx("build-trt", *words, "--target", "sm_89", "--json", "-q", "-o", tmp_path)
    assert answer.code == 0, answer.stderr
    assert (answer.document["precision"]["verdict"], answer.document["targets"]) == ("pass", ["sm_89"])
    assert set(answer.document["precision"]["achieved"]) == {"float8_e4m3fn"}


def test_calibration_options_of_an_engine_need_eight_bits(
    bbx: Any, exported: Path, crops_folder: Path, tmp_path: Path
) -> None:
    answer = bbx("build-trt", exported, "--calib", crops_folder, *SM_86, "-q", "-o", tmp_path)
    assert answer.code == 2
    assert "--calib belongs to --int8 or --fp8" in answer.error
    answer = bbx("build-trt", "resnet18", "--int8", *SM_86, "-q", "-o", tmp_path)
    assert answer.code == 2
    assert "needs images to calibrate on" in answer.error


def test_a_detector_is_quantised_and_its_box_arithmetic_is_not(
    bbx: Any, crops_folder: Path, tmp_path: Path
) -> None:
    document = _quantised(
        bbx, "fcos_r50_fpn", "--backbone", "resnet18", "--weights", "random", "--image-size", 64,
        "--calib", crops_folder, "--method", "max", "-o", tmp_path,
    )  # fmt: skip
    model = onnx.load(document["artifact"])
    restored = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    boxes = [node for node in model.graph.node if stays_float32(node) is not None]
    assert len(boxes) > 10
    assert not [node.name for node in boxes if restored & set(node.input)]
    assert not [node.name for node in boxes if node.op_type.endswith("eLinear")]
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    assert all(set(node.input[:2]) <= restored for node in layers)
    assert len(document["quantized_nodes"]) == len(layers)
    assert document["accuracy"]["metric"] == "matched_detections"


# --- whether it is worth it ---------------------------------------------------------------------------


def _compared(
    monkeypatch: pytest.MonkeyPatch, change: str, ratio: float, void: str | None = None
) -> list[Path]:
    """Give comparisons this answer; returns the list of what they were asked about."""
    asked: list[Path] = []

    def answer(base: Path, head: Path, **_: Any) -> dict[str, Any]:
        asked.extend([base, head])
        return {"pairs": [{"verdict": change, "ratio": ratio, "ci95": [ratio, ratio]}], "void": void}

    monkeypatch.setattr("bbx.benchmarks.compare.compare", answer)
    return asked


@pytest.mark.parametrize("half", [False, True])
def test_worth_compares_with_the_fp32_graph(  # noqa: PLR0917 - fixtures
    bbx: Any,
    exported: Path,
    crops_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    half: bool,
) -> None:
    asked = _compared(monkeypatch, "slower", 1.4)
    words = ("--calib", crops_folder, "--method", "max", "--worth", *(["--fp16"] if half else []))
    document = _quantised(bbx, exported, *words, "-o", tmp_path)
    assert asked == [exported, Path(document["artifact"])]
    assert document["worth"]["verdict"] == "no"
    assert "1.40 times" in document["worth"]["reason"]


@pytest.mark.parametrize(
    ("change", "drop", "budget", "void", "verdict"),
    [
        ("faster", 0.004, None, None, "yes"),
        ("faster", 0.02, None, None, "no"),
        ("faster", 0.02, 0.03, None, "yes"),
        ("faster", 0.004, 0.001, None, "no"),
        ("same", 0.0, None, None, "no"),
        ("ambiguous", 0.0, None, None, "unknown"),
        ("faster", 0.0, None, "the control fired", "unknown"),
    ],
)
def test_worth_weighs_time_against_accuracy(  # noqa: PLR0917 - a table
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    drop: float,
    budget: float | None,
    void: str | None,
    verdict: str,
) -> None:
    _compared(monkeypatch, change, 0.6, void)
    document = {"artifact": str(exported), "accuracy": {"drop": drop, "max_drop": budget}}
    assert worth(document)["verdict"] == verdict
