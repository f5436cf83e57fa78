"""Segmenters as ONNX graphs on ONNX Runtime, and as TensorRT-for-RTX engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bbx.exporter.engine_options import EngineOptions
from bbx.exporter.onnx_options import OnnxOptions
from bbx.exporter.to_engine import engine_from_onnx
from bbx.exporter.to_onnx import onnx_from_module
from bbx.exporter.to_typed import typed_from_onnx
from bbx.images import photograph_batch
from bbx.models.batch_norm import estimate_batch_norm
from bbx.models.segmentation.base import Segmenter, labels_of
from bbx.models.segmentation.build import DECODERS, WHOLE, segmenter
from bbx.models.spec import ModelSpec
from bbx.types import Preprocess, TensorSpec

_SIZE = (64, 96)
_CLASSES = 5
_HOW = Preprocess(*_SIZE)
_DATA_DEPENDENT = {"NON_ZERO", "NMS", "CONDITION", "LOOP", "TRIP_LIMIT", "ITERATOR"}


@dataclass(frozen=True, slots=True)
class Exported:
    module: Segmenter
    path: Path
    outputs: tuple[TensorSpec, ...]


Export = Callable[..., Exported]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Build and export a segmenter by name, once; decoders stand on ResNet-18."""
    made: dict[tuple[str, bool], Exported] = {}

    def export(name: str, *, argmax: bool = False) -> Exported:
        if (name, argmax) not in made:
            torch.manual_seed(0)
            backbone = ModelSpec("resnet18", weights="random", image_size=64) if name in DECODERS else None
            module = segmenter(name, backbone=backbone, num_classes=_CLASSES, size=_SIZE, argmax=argmax)
            estimate_batch_norm(module, _HOW)
            path = tmp_path_factory.mktemp(name) / "model.onnx"
            images = TensorSpec("images", "float32", _HOW.input_shape)
            written = onnx_from_module(
                module, (images,), module.outputs, OnnxOptions(exporter="dynamo"), path
            )
            made[name, argmax] = Exported(module, path, written.outputs)
        return made[name, argmax]

    return export


def infer(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"images": images})
    return output


@pytest.mark.parametrize("name", [*WHOLE, *DECODERS])
def test_logits_on_onnx_runtime_are_torchs_at_any_batch(exported: Export, name: str) -> None:
    given = exported(name)
    assert given.outputs == (TensorSpec("logits", "float32", (None, _CLASSES, *_SIZE)),)
    for batch in (1, 3):
        images = photograph_batch(_HOW, batch)
        with torch.inference_mode():
            wanted = given.module(torch.from_numpy(images)).numpy()
        found = infer(given.path, images)
        assert found.shape == wanted.shape
        assert wanted.std(axis=(2, 3)).min() > 1e-3, "the logits say nothing"
        # A hundred layers of random weights magnify the rounding of the first to 3e-4.
        assert np.abs(found - wanted).max() <= 1e-3 * np.abs(wanted).max()


def test_labels_on_onnx_runtime_are_torchs(exported: Export) -> None:
    given = exported("lraspp_mobilenet_v3_large", argmax=True)
    assert given.outputs == (TensorSpec("labels", "uint8", (None, *_SIZE)),)
    for batch in (1, 3):
        images = photograph_batch(_HOW, batch)
        with torch.inference_mode():
            wanted = given.module(torch.from_numpy(images)).numpy()
        assert np.unique(wanted).size > 1
        assert (infer(given.path, images) == wanted).mean() >= 0.999


@pytest.mark.parametrize(("classes", "dtype"), [(3, "uint8"), (300, "int32")])
def test_ties_go_to_the_lowest_class_in_the_graph_too(tmp_path: Path, classes: int, dtype: str) -> None:
    class Labels(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return labels_of(images)

    path = tmp_path / "labels.onnx"
    spec = TensorSpec("images", "float32", (None, classes, 1, 3))
    onnx_from_module(Labels().eval(), (spec,), ("labels",), OnnxOptions(exporter="dynamo"), path)
    logits = np.zeros((2, classes, 1, 3), np.float32)
    logits[:, -1, 0, 1] = 1.0
    logits[:, -2:, 0, 2] = 1.0
    labels = infer(path, logits)
    assert labels.dtype == dtype
    assert labels.tolist() == [[[0, classes - 1, classes - 2]]] * 2


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("name", "argmax"),
    [("lraspp_mobilenet_v3_large", True), ("fcn_resnet50", False), ("unet", False), ("semantic_fpn", False)],
)
def test_engines_build_for_a_range_of_batches(
    exported: Export, tmp_path: Path, name: str, argmax: bool, precision: str
) -> None:
    given = exported(name, argmax=argmax)
    path = given.path
    if precision == "fp16":
        path = tmp_path / "typed.onnx"
        onnx.save(typed_from_onnx(onnx.load(given.path), precision, {}).model, path)
    build = engine_from_onnx(path, EngineOptions("rtx", targets=("sm_86",)), tmp_path / "model.engine")
    (batches,) = build.profiles[0].inputs
    assert (batches.min[0], batches.max[0]) == (1, 8)
    assert build.network.outputs == given.outputs
    kinds = {layer.kind for layer in build.network.layers}
    assert not kinds & _DATA_DEPENDENT
    assert not any(kind.startswith("PLUGIN") for kind in kinds)
    wanted = "float16" if precision == "fp16" else "float32"
    assert {layer.dtype for layer in build.network.compute_layers} == {wanted}
