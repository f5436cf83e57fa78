"""Every detector and segmenter that bbx knows by name becomes an engine, in FP32 and in FP16."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto
from safetensors.torch import save_file

from bbx import lazy
from bbx.exporter.engine_options import EngineOptions
from bbx.exporter.network_facts import NetworkFacts
from bbx.exporter.onnx_graph import tensor_infos
from bbx.exporter.onnx_io import save_onnx
from bbx.exporter.onnx_options import FLOAT32_MARK, OnnxOptions
from bbx.exporter.plan_weights import weights_in_plan
from bbx.exporter.precision import PrecisionProof, precision_proof
from bbx.exporter.to_engine import engine_from_onnx
from bbx.exporter.to_onnx import onnx_from_module
from bbx.exporter.to_typed import typed_from_onnx
from bbx.models.build import build
from bbx.models.detection import construct
from bbx.models.registry import preset, presets
from bbx.models.spec import ModelSpec
from bbx.types import TensorSpec

pytestmark = pytest.mark.skipif(not lazy.installed("tensorrt_rtx"), reason="the extra `rtx` is not installed")

DETECTORS = tuple(entry.name for entry in presets("detection"))
SEGMENTERS = tuple(entry.name for entry in presets("segmentation"))
SIDE = 64
PROPOSALS, CANDIDATES, ROWS = 60, 60, 20
"""Fewer than the defaults: an engine for them builds sooner, and has layers of the same kinds.

`make coverage` builds all of them with the defaults, at their own image sizes.
"""

PLUGINS = ("PLUGIN", "PLUGIN_V2", "PLUGIN_V3")
DATA_DEPENDENT = ("NON_ZERO", "NMS", "TRIP_LIMIT", "ITERATOR", "LOOP_OUTPUT", "CONDITION")
"""TensorRT's kinds of layers whose shapes, or whose being run at all, depend on what the image shows."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The FP32 graph of a preset at a small size, and what the preset promises of its outputs."""

    path: Path
    outputs: tuple[TensorSpec, ...]


def _with_few_proposals(*given: Any) -> Any:
    network: Any = _build_network(*given)
    if hasattr(network, "rpn"):
        network.rpn._pre_nms_top_n["testing"] = network.rpn._post_nms_top_n["testing"] = PROPOSALS
    return network


_build_network = construct.build_network


def _spec(name: str, folder: Path) -> ModelSpec:
    """The preset with a state dict of its own library, for which no statistics need be taken."""
    entry = preset(name)
    size = None if entry.fixed_size else SIDE
    if entry.task == "segmentation":
        return ModelSpec(name, weights="random", image_size=size)
    torch.manual_seed(0)
    network = _build_network(entry, ModelSpec(name), None)
    save_file(network.state_dict(), folder / "net.safetensors")
    return ModelSpec(
        name,
        weights=str(folder / "net.safetensors"),
        image_size=size,
        lowering="static",
        candidates=CANDIDATES,
        detections=ROWS,
    )


@pytest.fixture(scope="module", params=(*DETECTORS, *SEGMENTERS))
def exported(request: pytest.FixtureRequest) -> Iterator[Exported]:
    """A preset, exported once for both precisions; its files go with it, since they are large."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(construct, "build_network", _with_few_proposals)
        folder = Path(name)
        model = build(_spec(request.param, folder))
        path = folder / "net.onnx"
        names = tuple(spec.name for spec in model.outputs)
        written = onnx_from_module(model.module, model.inputs, names, OnnxOptions(exporter="dynamo"), path)
        assert written.notes == ()
        yield Exported(path, model.outputs)


def _engine(path: Path, precision: Any, kept: list[str]) -> tuple[NetworkFacts, PrecisionProof]:
    plan = path.with_suffix(".engine")
    built = engine_from_onnx(path, EngineOptions("rtx", targets=("sm_86",)), plan)
    (entry,) = built.profiles[0].inputs
    assert (entry.min[0], entry.max[0]) == (1, 8)
    weights = weights_in_plan(onnx.load(str(path)), plan.read_bytes())
    plan.unlink()
    return built.network, precision_proof(precision, built.network, weights, kept=kept)


def _count(network: NetworkFacts, kinds: tuple[str, ...]) -> int:
    return sum(layer.kind in kinds for layer in network.layers)


def _check(network: NetworkFacts, proof: PrecisionProof, outputs: tuple[TensorSpec, ...]) -> None:
    assert _count(network, PLUGINS) == 0
    assert _count(network, DATA_DEPENDENT) == 0
    # What the engine gives has the promised shape, of which only the batch is open.
    assert {spec.name: spec.shape for spec in network.outputs} == {spec.name: spec.shape for spec in outputs}
    assert proof.verdict == "pass", proof.reasons


def test_an_fp32_engine(exported: Exported) -> None:
    network, proof = _engine(exported.path, "fp32", [])
    _check(network, proof, exported.outputs)
    assert set(proof.achieved) == {"float32"}


def test_an_fp16_engine_keeps_boxes_in_fp32_and_convolutions_not(exported: Exported) -> None:
    source = onnx.load(str(exported.path))
    typed = typed_from_onnx(source, "fp16", {})
    _check_types(source, typed.model, {node.name for node in typed.kept})
    path = exported.path.with_name("typed.onnx")
    save_onnx(typed.model, path)
    network, proof = _engine(path, "fp16", [node.name for node in typed.kept])
    _check(network, proof, exported.outputs)
    convolutions = Counter(layer.dtype for layer in network.layers if layer.kind == "CONVOLUTION")
    assert set(convolutions) == {"float16"}


def _check_types(source: ModelProto, typed: ModelProto, kept: set[str]) -> None:
    """Nodes that carry the mark give no 16-bit tensor; convolutions give nothing else."""
    marked = {
        node.name
        for node in source.graph.node
        if any(entry.key == FLOAT32_MARK for entry in node.metadata_props)
    }
    assert bool(marked) == ("boxes" in {value.name for value in source.graph.output})
    infos = tensor_infos(typed)
    types = {node.name: {infos[name].elem_type for name in node.output if name} for node in typed.graph.node}
    assert bool(marked & kept) == bool(marked)
    assert all(TensorProto.FLOAT16 not in types[name] for name in marked & types.keys())
    convolutions = [node.name for node in typed.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert all(types[name] == {TensorProto.FLOAT16} for name in convolutions)
