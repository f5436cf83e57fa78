"""`bbx build-trt`: real TensorRT-for-RTX builds of real graphs, and the proof of their precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from bbx import lazy
from bbx.artifact import manifest_path, read_manifest, require_trust
from bbx.errors import ArtifactError, CheckFailed
from bbx.exporter.engine_options import current_target
from bbx.pipeline import EngineStep, ensure

pytestmark = pytest.mark.skipif(not lazy.installed("tensorrt_rtx"), reason="the extra `rtx` is not installed")

RTX = ("--flavor", "rtx", "--target", "sm_86", "--json", "-q")
BACKEND_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
without_gpu = pytest.mark.skipif(current_target() is not None, reason="an engine can be run here")


@pytest.fixture(scope="module")
def graph(nets: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of somebody's, without a manifest."""
    path = tmp_path_factory.mktemp("graph") / "net.onnx"
    torch.onnx.export(
        nets.Tiny().eval(),
        (torch.zeros(2, 3, 16, 16),),
        str(path),
        dynamo=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
    )
    return path


def build(bbx: Any, source: Any, out: Path, *options: Any, code: int = 0) -> dict[str, Any]:
    answer = bbx("build-trt", source, *RTX, *options, "-o", out)
    assert answer.code == code, answer.stderr
    document: dict[str, Any] = answer.document
    return document


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")]
)
def test_an_engine_holds_the_precision_that_was_asked_for(
    bbx: Any, in_nets_folder: Path, tmp_path: Path, precision: str, dtype: str
) -> None:
    options = [] if precision == "fp32" else [f"--{precision}"]
    document = build(bbx, "sample_nets:tiny", tmp_path, *options)
    proof = document["precision"]
    assert (proof["requested"], proof["verdict"]) == (precision, "pass")
    assert proof["achieved"][dtype]["layers"] == 2
    assert proof["achieved"][dtype]["weight_bytes"] > 0
    assert document["targets"] == ["sm_86"]
    engine = Path(document["engine"])
    require_trust(engine, "engine", trust=False)
    manifest = read_manifest(engine)
    assert manifest is not None
    assert manifest.parent_sha256 == document["source_sha256"]
    assert manifest.targets == ("sm_86",)


@without_gpu
def test_an_engine_that_cannot_run_here_says_so(bbx: Any, graph: Path, tmp_path: Path) -> None:
    document = build(bbx, graph, tmp_path)
    assert "built and not run" in document["notes"][0]
    assert (document["parity"]["of"], document["parity"]["ran"]) == ("graph", False)
    assert document["parity"]["verdict"] == "inconclusive"
    assert document["weights"] == "file"


def test_profiles(bbx: Any, graph: Path, tmp_path: Path) -> None:
    document = build(bbx, graph, tmp_path, "--profile", "1,4,8", "--profile", "16,16,16")
    sizes = [[profile["images"][end][0] for end in ("min", "opt", "max")] for profile in document["profiles"]]
    assert sizes == [[1, 4, 8], [16, 16, 16]]
    assert document["profiles"][0]["images"]["opt"] == [4, 3, 16, 16]


def test_the_same_engine_again_is_taken_from_disk_until_the_graph_changes(
    bbx: Any, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bbx.artifact.source_digest", lambda: "the source")
    mine = tmp_path / "net.onnx"
    mine.write_bytes(graph.read_bytes())
    assert [build(bbx, mine, tmp_path)["reused"] for _ in range(2)] == [False, True]
    assert build(bbx, mine, tmp_path, "--profile", "1,2,2")["reused"] is False
    model = onnx.load(mine)
    model.doc_string = "changed"
    onnx.save(model, mine)
    assert build(bbx, mine, tmp_path, "--profile", "1,2,2")["reused"] is False


@pytest.mark.parametrize("option", ["--strip", "--refit"])
def test_stripped_and_refittable_engines_or_why_not(
    bbx: Any, graph: Path, tmp_path: Path, option: str
) -> None:
    answer = bbx("build-trt", graph, *RTX, option, "-o", tmp_path)
    if answer.code == 5:
        assert "needs a GPU" in answer.error
        assert list(tmp_path.iterdir()) == []
    else:
        assert answer.code == 0, answer.stderr
        assert Path(answer.document["engine"]).is_file()


def test_int8_of_a_graph_without_it_fails_and_is_kept_as_failed(
    bbx: Any, graph: Path, tmp_path: Path
) -> None:
    good = Path(build(bbx, graph, tmp_path)["engine"])
    before = good.read_bytes()
    document = build(bbx, graph, tmp_path, "--int8", code=3)
    assert document["precision"]["verdict"] == "fail"
    assert document["precision"]["requested"] == "int8"
    assert set(document["precision"]["achieved"]) == {"float32"}
    assert "INT8 engine that was asked for" in document["error"]["message"]
    assert document["engine"] == str(tmp_path / "net.failed.engine")
    assert good.read_bytes() == before


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.usefixtures("inline_tasks")
def test_a_typed_graph_that_ignores_the_request_fails(tmp_path: Path, precision: str) -> None:
    """An engine has the types of its graph; here they are FP16 where something else was asked for."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, 64]) for name in "xy"]
    weight = helper.make_tensor(
        "w", TensorProto.FLOAT16, [64, 64], np.eye(64, dtype=np.float16).tobytes(), raw=True
    )
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = tmp_path / "net.onnx"
    made = helper.make_model(
        helper.make_graph([node], "g", values[:1], values[1:], [weight]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    onnx.save(made, path)

    step = EngineStep("test", path, precision, "rtx", targets=("sm_86",))
    if precision == "fp16":
        assert ensure(step, tmp_path).document["precision"]["verdict"] == "pass"
        return
    with pytest.raises(CheckFailed) as caught:
        ensure(step, tmp_path)
    assert caught.value.document is not None
    assert set(caught.value.document["precision"]["achieved"]) == {"float16"}


@pytest.fixture(scope="module")
def quantised(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph with symmetric INT8 Q/DQ nodes, by ONNX Runtime's own tool."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Noise(CalibrationDataReader):
        def __init__(self) -> None:
            generator = np.random.default_rng(0)
            self.left = [generator.standard_normal((2, 3, 16, 16), dtype=np.float32) for _ in range(4)]

        def get_next(self) -> Any:
            return {"images": self.left.pop()} if self.left else None

    path = tmp_path_factory.mktemp("quantised") / "net.int8.onnx"
    quantize_static(
        str(graph),
        str(path),
        Noise(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    return path


def test_int8_of_a_quantised_graph_passes_or_tells_why(bbx: Any, quantised: Path, tmp_path: Path) -> None:
    answer = bbx("build-trt", quantised, *RTX, "--int8", "-o", tmp_path)
    proof = answer.document["precision"]
    if answer.code == 3:
        assert proof["reasons"]
    else:
        assert answer.code == 0, answer.stderr
        assert proof["verdict"] == "pass"
    assert proof["achieved"]["int8"]["layers"] >= 1


@pytest.mark.parametrize(
    "name", ["simple/test_single_relu_model/model.onnx", "simple/test_sign_model/model.onnx"]
)
def test_a_graph_from_anybody(bbx: Any, tmp_path: Path, name: str) -> None:
    document = build(bbx, BACKEND_DATA / name, tmp_path)
    assert document["precision"]["verdict"] == "pass"
    assert Path(document["engine"]).stat().st_size > 1000


def test_a_network_from_anybody(bbx: Any, tmp_path: Path) -> None:
    answer = bbx("build-trt", BACKEND_DATA / "light" / "light_squeezenet.onnx", *RTX, "-o", tmp_path)
    assert answer.code in (0, 1), answer.stderr
    if answer.code:  # opset 9 with initialisers that are inputs: refused with TensorRT's words
        assert "TensorRT cannot" in answer.error
    else:
        assert answer.document["precision"]["achieved"]["float32"]["layers"] > 20


def test_a_graph_that_tensorrt_refuses_is_said_with_its_node(bbx: Any, tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"], name="find")
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [4]),
        helper.make_tensor_value_info("y", TensorProto.INT64, [1, None]),
    ]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9),
        tmp_path / "n.onnx",
    )
    answer = bbx("build-trt", tmp_path / "n.onnx", *RTX, "-o", tmp_path / "out")
    assert answer.code == 1
    assert "NonZero" in answer.error
    assert answer.stderr.count("\n") == 1


def test_an_engine_of_another_manifest_is_foreign(bbx: Any, graph: Path, tmp_path: Path) -> None:
    engine = Path(build(bbx, graph, tmp_path)["engine"])
    text = manifest_path(engine).read_text()
    engine.write_bytes(engine.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="changed after"):
        require_trust(engine, "engine", trust=False)
    manifest_path(engine).write_text(text.replace('"signature": "', '"signature": "0'))
    with pytest.raises(ArtifactError, match="not made by bbx on this machine"):
        require_trust(engine, "engine", trust=False)
