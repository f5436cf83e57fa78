"""`bbx bisect`: the nodes that break parity, the repaired graph, and the other two answers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from bbx.artifact import read_manifest
from bbx.images import photograph_batch
from bbx.types import Preprocess

SIDE = 24


class _Net(torch.nn.Module):
    """Four convolutions and a layer, which tell inputs apart."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 12, 16, 16, 24)
        self.convolutions = torch.nn.ModuleList(
            torch.nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )
        self.head = torch.nn.Linear(24 * 4, 10)
        for layer in (*self.convolutions, self.head):
            torch.nn.init.kaiming_normal_(layer.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for convolution in self.convolutions:
            images = torch.relu(convolution(images))
        return self.head(images.flatten(1))


def _export(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    program = torch.onnx.export(
        _Net().eval(),
        (torch.zeros(2, 3, SIDE, SIDE),),
        dynamo=True,
        opset_version=20,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        verbose=False,
    )
    program.save(str(path))
    return path


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    def __init__(self) -> None:
        images = photograph_batch(Preprocess(SIDE, SIDE), 8)
        self._rows = iter([{"images": images[row : row + 1]} for row in range(8)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rows, None)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`net.onnx`, `other.onnx` of other weights, and what ONNX Runtime makes of the first in INT8."""
    folder = tmp_path_factory.mktemp("graphs")
    for seed, name in enumerate(("net", "other")):
        _export(folder / f"{name}.onnx", seed)
    quantize_static(
        folder / "net.onnx",
        folder / "int8.onnx",
        _Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    return folder


def _broken(graphs: Path, folder: Path, name: str = "int8") -> tuple[Path, str]:
    """The scale of a layer's weights is 100 times what it was; also the layer's name."""
    model = onnx.load(graphs / f"{name}.onnx")
    layer = [node for node in model.graph.node if node.op_type == "Conv"][2]
    maker = next(node for node in model.graph.node if layer.input[1] in node.output)
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == maker.input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(100), scale.name))
    onnx.save(model, folder / "broken.onnx")
    return folder / "broken.onnx", layer.name


def test_the_node_is_found_and_the_graph_repaired(bbx: Any, graphs: Path, tmp_path: Path) -> None:
    broken, layer = _broken(graphs, tmp_path)
    out = tmp_path / "repaired.onnx"
    answer = bbx("bisect", broken, "--against", graphs / "net.onnx", "-o", out, "--json", "-q")
    assert answer.code == 0, answer.stderr
    document = answer.document
    assert document["schema"] == "bbx/1"
    assert document["verdict"] == "found"
    assert document["artifact"] == str(out)
    (node,) = document["nodes"]
    assert (node["name"], node["op_type"], node["precisions"]) == (layer, "Conv", ["int8"])
    assert node["distance_with"] < 0.2 < node["distance_without"]
    assert node["needed"]
    assert document["minimal"]
    assert document["control"]["all_in_fp32"] < 1e-5
    assert document["control"]["as_it_is"] == node["distance_without"]
    assert document["evaluations"] <= 4
    assert document["parity"]["verdict"] == "pass"
    assert document["precision"] == "int8"
    assert [kept["name"] for kept in document["kept"]] == [layer]
    manifest = read_manifest(out)
    assert manifest is not None
    assert manifest.precision == "int8"
    assert manifest.request["source"] == str(broken)


def test_the_repaired_graph_passes_where_the_broken_one_failed(
    bbx: Any, graphs: Path, tmp_path: Path
) -> None:
    broken, _ = _broken(graphs, tmp_path)
    against = ("--against", graphs / "net.onnx")
    failed = bbx("parity", broken, *against, "--json", "-q")
    assert (failed.code, failed.document["pinned"]) == (3, "qdq")
    assert bbx("bisect", broken, *against, "-o", tmp_path, "-q").code == 0
    repaired = tmp_path / "broken.repaired.onnx"
    passed = bbx("parity", repaired, "--json", "-q")
    assert passed.code == 0
    assert passed.document["verdict"] == "pass"
    # What it is judged by is its parent, found by its hash.
    assert [stage["subject"] for stage in passed.document["stages"]] == ["net.onnx", repaired.name]
    assert bbx("bisect", repaired, "-o", tmp_path, "--json", "-q").document["verdict"] == "nothing_to_find"


def test_a_person_reads_which_nodes_and_how_far(bbx: Any, graphs: Path, tmp_path: Path) -> None:
    broken, layer = _broken(graphs, tmp_path)
    answer = bbx("bisect", broken, "--against", graphs / "net.onnx", "-o", tmp_path)
    first, *rest = answer.stdout.splitlines()
    assert first.startswith("1 of ")
    assert "nodes in fewer bits break parity, found in " in first
    assert any(line.split()[:2] == [layer, "Conv"] for line in rest if line.strip())
    words = {line.split()[0] for line in rest if line.strip()}
    assert {"control", "repaired", "parity"} <= words
    assert "bisect: evaluation 1" in answer.stderr


def test_nothing_to_find_is_no_failure_and_writes_nothing(bbx: Any, graphs: Path, tmp_path: Path) -> None:
    options = ("--against", graphs / "net.onnx", "-o", tmp_path / "out")
    answer = bbx("bisect", graphs / "int8.onnx", *options, "--json", "-q")
    assert answer.code == 0
    assert answer.document["verdict"] == "nothing_to_find"
    assert answer.document["artifact"] is None
    assert (answer.document["nodes"], answer.document["evaluations"]) == ([], 1)
    assert not list(tmp_path.rglob("*.onnx"))
    assert "Nothing to find" in bbx("bisect", graphs / "int8.onnx", *options, "-q").stdout


def test_a_tighter_tolerance_finds_what_costs_most(bbx: Any, graphs: Path, tmp_path: Path) -> None:
    options = ("--against", graphs / "net.onnx", "-o", tmp_path, "--json", "-q")
    usual = bbx("bisect", graphs / "int8.onnx", *options).document
    tighter = usual["control"]["as_it_is"] * 0.8
    document = bbx("bisect", graphs / "int8.onnx", "--tolerance", tighter, *options).document
    assert document["verdict"] == "found"
    assert 0 < len(document["nodes"]) < document["low_nodes"]
    assert document["parity"]["tolerance"]["rel_l2"] == tighter
    assert all(node["distance_without"] > tighter for node in document["nodes"])


def _other_activation(graphs: Path, folder: Path) -> Path:
    """The quantised graph with another function in it, which is no matter of precision."""
    model = onnx.load(graphs / "int8.onnx")
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Neg"
    onnx.save(model, folder / "another.onnx")
    return folder / "another.onnx"


def test_another_network_is_not_the_precision(bbx: Any, graphs: Path, tmp_path: Path) -> None:
    another = _other_activation(graphs, tmp_path)
    options = ("--against", graphs / "net.onnx", "-o", tmp_path, "--json", "-q")
    answer = bbx("bisect", another, *options)
    assert answer.code == 3
    assert "It is not the precision: with every node in FP32, another.onnx does not agree" in answer.error
    assert answer.document["verdict"] == "not_the_precision"
    assert answer.document["evaluations"] == 3
    assert not (tmp_path / "another.repaired.onnx").exists()


def test_a_model_and_its_typed_graph(bbx: Any, in_nets_folder: Path, tmp_path: Path) -> None:
    """The reference is found through the manifests, and the repaired graph keeps what they say of the net."""
    exported = bbx("export", "sample_nets:tiny", "--fp16", "-q", "-o", tmp_path)
    assert exported.code == 0
    typed = tmp_path / "sample_nets-tiny.fp16.onnx"
    for against in ((), ("--against", "sample_nets:tiny")):
        answer = bbx("bisect", typed, *against, "-o", tmp_path, "--json", "-q")
        assert answer.document["verdict"] == "nothing_to_find"
        assert answer.document["against"] == str(tmp_path / "sample_nets-tiny.onnx")
    found = bbx("bisect", typed, "--tolerance", 1e-6, "-o", tmp_path, "--json", "-q").document
    assert found["verdict"] == "found"
    assert found["precision"] in ("fp16", "fp32")
    manifest = read_manifest(tmp_path / "sample_nets-tiny.fp16.repaired.onnx")
    assert manifest is not None
    assert manifest.model == "sample_nets:tiny"
    assert manifest.preprocess is not None
    # Other weights than the recorded ones are another model, which is exported for the purpose.
    other = bbx("bisect", typed, "--against", "sample_nets:tiny", "--seed", 1, "-o", tmp_path / "s", "-q")
    assert other.code == 3
    assert "It is not the precision" in other.error
    assert (tmp_path / "s" / "sample_nets-tiny.onnx").exists()


@pytest.fixture
def places(graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Be in a folder with files of the wrong kinds; where the good ones are."""
    monkeypatch.chdir(tmp_path)
    Path("net.torchscript").write_bytes(b"PK")
    Path("cut.onnx").write_bytes((graphs / "int8.onnx").read_bytes()[:300])
    renamed = onnx.load(graphs / "net.onnx")
    renamed.graph.output[0].name = renamed.graph.node[-1].output[0] = "scores"
    onnx.save(renamed, "renamed.onnx")
    return {f"{{{name}}}": graphs / f"{name}.onnx" for name in ("net", "int8")}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("none.onnx", "--against", "{net}"), 1, "There is no file none.onnx."),
        (("{int8}", "--against", "none.onnx"), 1, "There is no file none.onnx."),
        (("{int8}",), 2, "The FP32 graph that int8.onnx was made from is not known. Type: bbx bisect "),
        (("{net}", "--against", "{net}"), 1, "net.onnx computes in FP32 throughout"),
        (("net.torchscript", "--against", "{net}"), 1, "net.torchscript is no ONNX graph"),
        (("{int8}", "--against", "net.torchscript"), 1, "net.torchscript is no ONNX graph"),
        (("cut.onnx", "--against", "{net}"), 1, "is not an ONNX graph, or is truncated"),
        (("{int8}", "--against", "renamed.onnx"), 1, "has the outputs logits of rank 2, and renamed.onnx"),
        (("{int8}", "--against", "{net}", "--tolerance", 0), 2, "--tolerance must be above 0 and below 1"),
        (("{int8}", "--against", "{net}", "--tolerance", "nan"), 2, "--tolerance must be above 0"),
        (("{int8}", "--against", "{net}", "--evaluations", 2), 2, "--evaluations must be 3 at least"),
        (("{int8}", "--against", "{net}", "--seed", 2), 2, "Options of a model belong to --against MODEL"),
        (("{int8}", "--against", "{net}", "-o", "{int8}"), 2, "is the graph that is looked at"),
        (("{int8}", "--against", "{net}", "-o", "x.engine"), 2, "ends in .engine"),
    ],
)
def test_bad_input_is_named(bbx: Any, places: dict[str, Path], words: Any, code: int, said: str) -> None:
    folder = places["{net}"].parent
    before = sorted(folder.iterdir())
    answer = bbx("bisect", *(places.get(str(word), word) for word in words), "-q")
    assert answer.code == code
    assert said in answer.error
    assert sorted(folder.iterdir()) == before
    assert not Path("artifacts").exists()


def test_a_reference_that_proves_nothing_is_an_error(bbx: Any, graphs: Path, tmp_path: Path) -> None:
    model = onnx.load(graphs / "net.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "head.weight":
            zeros = np.zeros(tensor.dims, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    onnx.save(model, tmp_path / "blind.onnx")
    answer = bbx("bisect", graphs / "int8.onnx", "--against", tmp_path / "blind.onnx", "-o", tmp_path, "-q")
    assert answer.code == 1
    assert "is the same whatever goes in" in answer.error
