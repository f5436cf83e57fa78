"""Typed graphs of real architectures: parity on photographs, real builds, and emulated BF16 against torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bbx.calibration.ranges import activation_ranges
from bbx.exporter.emulate import emulated_from_typed
from bbx.exporter.engine_options import EngineOptions
from bbx.exporter.plan_weights import weights_in_plan
from bbx.exporter.precision import precision_proof
from bbx.exporter.to_engine import engine_from_onnx
from bbx.exporter.to_typed import typed_from_onnx
from bbx.images import photograph_batch
from bbx.models.build import build
from bbx.models.spec import ModelSpec
from bbx.types import Preprocess

SIZE = 64
NETS = {
    "resnet18": "resnet18",
    "mobilenet_v3_small": "mobilenet_v3_small",
    "vit_tiny": "timm:vit_tiny_patch16_224",
    "convnext_atto": "timm:convnext_atto",
}
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def _images() -> np.ndarray:
    return photograph_batch(Preprocess(SIZE, SIZE), 4)


@cache
def _exported(name: str, folder: Path) -> Path:
    module = build(ModelSpec(NETS[name], num_classes=10, image_size=SIZE, weights="random")).module
    path = folder / f"{name}.onnx"
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.onnx.export(
        module,
        (torch.from_numpy(_images()[:2]),),
        dynamo=True,
        opset_version=20,
        dynamic_shapes=(batch,),
        verbose=False,
    )
    program.save(str(path))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def _run(model: onnx.ModelProto, feed: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.float64(session.run(None, {session.get_inputs()[0].name: feed})[0])


def _distance(want: np.ndarray, got: np.ndarray) -> float:
    return float(np.linalg.norm(want - got) / np.linalg.norm(want))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.02), ("bf16", 0.15)])
@pytest.mark.parametrize("name", NETS)
def test_typed_nets_agree_with_fp32_and_build_in_their_type(
    name: str, precision: str, tolerance: float, folder: Path, tmp_path: Path
) -> None:
    source = onnx.load(_exported(name, folder))
    feed = source.graph.input[0].name
    ranges = activation_ranges(_exported(name, folder), [{feed: _images()}])
    typed = typed_from_onnx(source, precision, ranges)
    runnable = typed.model if precision == "fp16" else emulated_from_typed(typed.model)
    error = _distance(_run(source, _images()), _run(runnable, _images()))
    assert 0 < error < tolerance

    path, out = tmp_path / "typed.onnx", tmp_path / "net.engine"
    onnx.save(typed.model, path)
    build = engine_from_onnx(path, EngineOptions("rtx", targets=("sm_86",)), out)
    weights = weights_in_plan(typed.model, out.read_bytes())
    proof = precision_proof(precision, build.network, weights, kept=[node.name for node in typed.kept])
    assert (proof.verdict, proof.reasons) == ("pass", ())


def test_emulated_bf16_rounds_as_torch_does() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 16)).eval()
    feed = torch.randn(8, 64)
    program = torch.onnx.export(module, (feed,), dynamo=True, opset_version=20, verbose=False)
    source = program.model_proto
    emulated = _run(emulated_from_typed(typed_from_onnx(source, "bf16", {}).model), feed.numpy())
    with torch.no_grad():
        exact = module(feed).double().numpy()
        rounded = module.bfloat16()(feed.bfloat16()).double().numpy()
    # Everything that comes out is a BF16 value, and it is nearer to torch's BF16 than to FP32.
    assert (emulated == torch.from_numpy(emulated).bfloat16().double().numpy()).all()
    assert _distance(rounded, emulated) < 0.2 * _distance(exact, rounded)


@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet", "light_bvlc_alexnet"])
def test_old_graphs_from_elsewhere(name: str, tmp_path: Path) -> None:
    path = LIGHT / f"{name}.onnx"
    source = onnx.load(path)
    value = next(v for v in source.graph.input if v.name not in {t.name for t in source.graph.initializer})
    shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
    feed = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    typed = typed_from_onnx(source, "fp16", activation_ranges(path, [{value.name: feed}]))
    assert typed.converted > 10
    assert _distance(_run(source, feed), _run(typed.model, feed)) < 0.02
