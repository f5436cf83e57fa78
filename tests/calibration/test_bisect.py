"""Planted faults in a net of fifty layers are found in few evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper

from bbx.calibration.agreement import Reference, distance_of, opened, tolerance_of, typed_infer
from bbx.calibration.bisect import Finding, find_nodes
from bbx.calibration.low_precision import low_graph
from bbx.calibration.placement import place
from bbx.calibration.ranges import activation_ranges
from bbx.calibration.suspicion import counterparts, reference_weights, suspicions
from bbx.calibration.to_qdq import QuantisedWeight, qdq_from_onnx
from bbx.exporter import onnx_graph
from bbx.exporter.onnx_graph import along_axis
from bbx.exporter.to_typed import typed_from_onnx
from bbx.exporter.verify import Case, reference_outputs
from bbx.images import photograph_batch
from bbx.models.build import build
from bbx.models.spec import ModelSpec
from bbx.types import Precision, Preprocess

SIDE = 64
FEW = 20
"""Evaluations within which a planted fault has to be found."""


def _images(count: int = 2) -> np.ndarray:
    return photograph_batch(Preprocess(SIDE, SIDE), count)


@dataclass(frozen=True)
class Net:
    """An FP32 graph and what is needed to bisect others against it."""

    model: ModelProto
    path: Path
    reference: Reference


def _net(model: ModelProto, path: Path) -> Net:
    onnx.save(model, path)
    name = model.graph.input[0].name
    cases = (Case(4, "photographs", {name: _images(4)}),)
    with opened(model) as runner:
        outputs = tuple(reference_outputs(cases, runner.infer))
    return Net(model, path, Reference(cases, outputs, path.name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bisect")


@pytest.fixture(scope="module")
def resnet50(folder: Path) -> Net:
    module = build(ModelSpec("resnet50", num_classes=10, image_size=SIDE, weights="random")).module
    program = torch.onnx.export(
        module,
        (torch.from_numpy(_images()),),
        dynamo=True,
        opset_version=20,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        verbose=False,
    )
    return _net(program.model_proto, folder / "resnet50.onnx")


def _quantised(net: Net) -> ModelProto:
    """INT8 with the placement for TensorRT and the extremes as ranges."""
    model = onnx_graph.prepared(net.model, opset=20)
    placement = place(model)
    ranges = activation_ranges(net.path, [net.reference.cases[0].feeds])
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = {}
    for layer in placement.layers:
        values = constants[layer.weight]
        others = tuple(axis for axis in range(values.ndim) if axis != layer.axis)
        scale = (np.abs(values).max(others) / 127).astype(np.float32)
        stored = np.rint(values / along_axis(scale, layer.axis, values.ndim)).astype(np.int8)
        weights[layer.weight] = QuantisedWeight(stored, scale, layer.axis)
    scales = {name: ranges[name].absmax / 127 for name in placement.activations}
    return qdq_from_onnx(model, placement, scales, weights, "int8")


@pytest.fixture(scope="module")
def int8(resnet50: Net) -> ModelProto:
    return _quantised(resnet50)


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _change(model: ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change an initialiser in place; it keeps its type."""
    tensor = next(each for each in model.graph.initializer if each.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), name))


def _layer(model: ModelProto, number: int) -> onnx.NodeProto:
    return [node for node in model.graph.node if node.op_type == "Conv"][number]


def _scale_of(model: ModelProto, node: onnx.NodeProto, position: int) -> str:
    """Name of the scale of what a node reads."""
    maker = next(each for each in model.graph.node if node.input[position] in each.output)
    return str(maker.input[1])


def _bisect(
    net: Net,
    model: ModelProto,
    precision: Precision,
    *,
    tolerance: float | None = None,
    suspect: bool = True,
    most: int = 64,
) -> Finding:
    graph = low_graph(model, "it")
    reference = onnx_graph.prepared(net.model, opset=onnx_graph.opset_of(net.model))
    matches = counterparts(graph, reference)
    weights = reference_weights(graph, matches, reference)
    doubts = [1.0] * len(graph.low)
    if suspect:
        ranges = activation_ranges(net.path, [net.reference.cases[0].feeds])
        doubts = suspicions(graph, matches, weights, ranges)
    allowed = tolerance_of(precision, None, tolerance)

    def judge(candidate: ModelProto) -> object:
        with opened(candidate) as runner:
            return net.reference.judge(typed_infer(runner), precision, allowed)

    return find_nodes(graph, judge, weights, doubts, most=most)


def _names(finding: Finding) -> list[str]:
    return [each.node.name for each in finding.nodes]


def test_a_good_graph_has_nothing_to_find(resnet50: Net, int8: ModelProto) -> None:
    finding = _bisect(resnet50, int8, "int8")
    assert (finding.verdict, finding.nodes, finding.evaluations) == ("nothing_to_find", (), 1)
    assert 0 < finding.as_it_is.distance < 0.2


@pytest.mark.parametrize(
    ("position", "factor", "suspect"), [(0, 100, True), (1, 0.01, True), (1, 100, False), (0, 0.01, False)]
)
def test_one_scale_wrong_by_100(
    resnet50: Net, int8: ModelProto, position: int, factor: float, suspect: bool
) -> None:
    broken = _copy(int8)
    layer = _layer(broken, 22)
    _change(broken, _scale_of(broken, layer, position), lambda scale: scale * factor)
    finding = _bisect(resnet50, broken, "int8", suspect=suspect)
    assert finding.verdict == "found"
    assert _names(finding) == [layer.name]
    assert finding.evaluations <= (4 if suspect else FEW)
    assert finding.minimal
    assert finding.nodes[0].without == finding.as_it_is.distance > 0.2
    assert finding.repaired is not None
    assert finding.repaired.distance < 0.2


def test_a_wrong_scale_that_two_nodes_read(resnet50: Net, int8: ModelProto) -> None:
    """What goes into a block is read by its first convolution and by the addition at its end."""
    broken = _copy(int8)
    shared = next(
        (conv, add)
        for conv in broken.graph.node
        for add in broken.graph.node
        if conv.op_type == "Conv" and add.op_type == "Add" and set(conv.input) & set(add.input)
    )
    _change(broken, _scale_of(broken, shared[0], 0), lambda scale: scale * 100)
    # Without the fault this network is 0.14 from FP32, and 0.14 or 0.22 with the two in floating point.
    finding = _bisect(resnet50, broken, "int8", suspect=False, tolerance=0.4)
    assert finding.verdict == "found"
    assert set(_names(finding)) <= {node.name for node in shared}
    assert finding.minimal
    assert finding.evaluations < FEW
    assert finding.repaired is not None
    # Far from what is allowed, so that neither side is chance.
    assert finding.as_it_is.distance > 0.6
    assert finding.repaired.distance < 0.3


def test_damaged_weights_are_taken_from_the_reference(resnet50: Net, int8: ModelProto) -> None:
    broken = _copy(int8)
    layer = _layer(broken, 20)
    stored = next(node.input[0] for node in broken.graph.node if layer.input[1] in node.output)
    _change(broken, stored, lambda values: np.where(np.arange(values.size).reshape(values.shape) % 2, 127, 0))
    finding = _bisect(resnet50, broken, "int8")
    assert _names(finding) == [layer.name]
    index = finding.nodes[0].node.index
    exact = numpy_helper.to_array(
        next(t for t in resnet50.model.graph.initializer if t.name == stored.removesuffix("_quantized"))
    )
    np.testing.assert_array_equal(finding.weights[index, 1], exact)


def _overflowing(net: Net, folder: Path) -> Net:
    """The first convolution of a block gives what FP16 cannot hold; the next two undo it."""
    model = _copy(net.model)
    steps = ((21, 2e4, 2e4), (22, 1 / 150, 2e4 / 150), (23, 150 / 2e4, 1.0))
    for number, of_weight, of_bias in steps:
        node = _layer(model, number)
        _change(model, node.input[1], lambda values, factor=of_weight: values * factor)
        _change(model, node.input[2], lambda values, factor=of_bias: values * factor)
    return _net(model, folder / "overflowing.onnx")


@pytest.fixture(scope="module")
def overflowing(resnet50: Net, folder: Path) -> Iterator[Net]:
    net = _overflowing(resnet50, folder)
    same = distance_of(
        resnet50.reference.judge(lambda _: net.reference.outputs[0], "fp32", tolerance_of("fp32", None))
    )
    assert same < 1e-5
    return net


@pytest.mark.parametrize("suspect", [True, False])
def test_a_layer_that_overflows_in_fp16(overflowing: Net, suspect: bool) -> None:
    # Without ranges nobody keeps it in FP32.
    typed = typed_from_onnx(overflowing.model, "fp16", {})
    finding = _bisect(overflowing, typed.model, "fp16", suspect=suspect)
    assert finding.verdict == "found"
    assert finding.as_it_is.distance == np.inf
    guilty = _layer(overflowing.model, 21).name
    assert guilty in _names(finding)
    # Its values go through the activation into the next convolution, and nowhere else.
    assert [each.node.op_type for each in finding.nodes] == ["Conv", "Relu", "Conv"]
    assert finding.evaluations < FEW
    assert finding.repaired is not None
    assert finding.repaired.distance < 0.01


def test_both_faults_at_once(overflowing: Net) -> None:
    mixed = typed_from_onnx(_quantised(overflowing), "fp16", {}).model
    wrong = _layer(mixed, 40)
    _change(mixed, _scale_of(mixed, wrong, 1), lambda scale: scale * 100)
    finding = _bisect(overflowing, mixed, "int8")
    names = _names(finding)
    assert finding.verdict == "found"
    assert wrong.name in names
    assert _layer(overflowing.model, 21).name in names
    assert len(names) <= 4
    assert finding.evaluations < FEW
    assert finding.minimal


def test_bf16_is_emulated(resnet50: Net) -> None:
    typed = typed_from_onnx(resnet50.model, "bf16", {}).model
    assert _bisect(resnet50, typed, "bf16").verdict == "nothing_to_find"
    layer = _layer(typed, 10)
    _change(typed, layer.input[1], lambda values: values * 30)
    finding = _bisect(resnet50, typed, "bf16")
    assert _names(finding) == [layer.name]


def test_another_network_is_not_the_precision(resnet50: Net, int8: ModelProto) -> None:
    other = _copy(int8)
    norm = next(tensor.name for tensor in other.graph.initializer if tensor.name.endswith("fc.bias"))
    _change(other, norm, lambda values: values + 5)
    # Its bias is in FP32 in both; only where the node is put back is it the reference's.
    finding = _bisect(resnet50, other, "int8")
    assert finding.verdict == "found"
    alien = _copy(resnet50.model)
    _change(alien, norm, lambda values: values + 5)
    mean = next(node for node in alien.graph.node if node.op_type in ("ReduceMean", "GlobalAveragePool"))
    mean.op_type = "ReduceMax" if mean.op_type == "ReduceMean" else "GlobalMaxPool"
    typed = typed_from_onnx(alien, "fp16", {}).model
    finding = _bisect(resnet50, typed, "fp16")
    assert finding.verdict == "not_the_precision"
    assert finding.nodes == ()
    assert finding.evaluations == 3


def test_spent_evaluations_give_the_smallest_set_known(resnet50: Net, int8: ModelProto) -> None:
    """A tolerance that needs many nodes: the answer passes, and is not said to be minimal."""
    finding = _bisect(resnet50, int8, "int8", tolerance=0.05, most=8)
    assert finding.verdict == "found"
    assert (finding.evaluations, finding.minimal) == (8, False)
    assert finding.repaired is not None
    assert finding.repaired.passed
    assert len(finding.nodes) > 3
    assert any(each.without is None for each in finding.nodes)
