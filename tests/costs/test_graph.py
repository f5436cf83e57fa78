"""Costs of ONNX graphs: by hand, and against the module that a graph was exported from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bbx.costs.graph import graph_costs
from bbx.costs.layers import Volume
from bbx.costs.module import module_costs
from bbx.errors import ArtifactError
from bbx.types import TensorSpec


def saved(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    shapes: dict[str, tuple[int, ...]],
    given: Sequence[int | str],
    *,
    opset: int = 18,
) -> Path:
    """A graph from `x` to `y` with weights of these shapes."""
    weights = [
        numpy_helper.from_array(np.zeros(shape, dtype=np.float32), name) for name, shape in shapes.items()
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    path = folder / "net.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("nodes", "shapes", "given", "flops"),
    [
        (
            [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2], group=2)],
            {"w": (8, 2, 3, 3)},
            ["batch", 4, 8, 8],
            2 * (3 * 8 * 4 * 4) * (2 * 9),
        ),
        (
            [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
            {"w": (4, 6, 2, 2)},
            ["batch", 4, 8, 8],
            2 * (3 * 4 * 8 * 8) * (6 * 4),
        ),
        ([helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": (7, 5)}, [3, 5], 2 * 3 * 5 * 7),
        (
            [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)],
            {"w": (5, 7)},
            [5, 3],
            2 * 3 * 5 * 7,
        ),
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": (5, 7)}, ["batch", 4, 5], 2 * 3 * 4 * 5 * 7),
    ],
)
def test_operators_by_hand(
    nodes: list[onnx.NodeProto],
    shapes: dict[str, tuple[int, ...]],
    given: list[int | str],
    flops: int,
    tmp_path: Path,
) -> None:
    costs = graph_costs(saved(tmp_path, nodes, shapes, given), batch=3)
    (layer,) = costs.layers
    assert (layer.type, layer.flops) == (nodes[0].op_type, flops)
    assert layer.parameters == costs.parameters == np.prod(shapes["w"])
    assert (costs.not_counted, costs.unknown_shapes) == ((), 0)


def test_a_view_moves_nothing_and_a_weight_counts_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "w"], ["a"]),
        helper.make_node("Flatten", ["a"], ["f"]),
        helper.make_node("Reshape", ["f", "shape"], ["b"]),
        helper.make_node("Mul", ["b", "w"], ["y"]),
    ]
    path = saved(tmp_path, nodes, {"w": (4, 4)}, ["batch", 4, 4])
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 4, 4]), "shape"))
    onnx.save(model, path)
    costs = graph_costs(path, batch=2)
    add, flatten, reshape, mul = costs.layers
    assert (add.parameters, mul.parameters, costs.parameters) == (16, 0, 16)
    assert flatten.moved == reshape.moved == reshape.written == Volume()
    assert add.moved == mul.moved == Volume(floats=32 + 16 + 32)
    assert reshape.output_shape == (2, 4, 4)
    # x and a, then a (which b looks at) and y.
    assert costs.peak("fp32") == 2 * 32 * 4
    assert costs.boundary == Volume(floats=32 + 16 + 32)


@pytest.mark.filterwarnings("ignore")  # torch.jit's tracer warns of what a constant batch would be
def test_an_exported_network_costs_what_its_module_costs(nets: ModuleType, tmp_path: Path) -> None:
    for factory in (nets.tiny, nets.vit):
        module, example = factory()
        path = tmp_path / f"{factory.__name__}.onnx"
        torch.onnx.export(
            module.eval(),
            (example,),
            path,
            dynamo=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}},
            opset_version=18,
        )
        exported = graph_costs(path, batch=2)
        traced = module_costs(module, [TensorSpec("images", "float32", (2, 3, 16, 16))], ["logits"])
        assert exported.flops == traced.flops > 0
        assert exported.outputs == traced.outputs


def test_what_is_not_counted_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Einsum", ["x", "w"], ["y"], equation="bi,ij->bj")]
    costs = graph_costs(saved(tmp_path, nodes, {"w": (4, 4)}, [2, 4]), batch=1)
    assert costs.not_counted == ("Einsum",)
    assert costs.flops == 0


def test_shapes_that_nobody_knows_are_counted_as_unknown(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["y"], to=TensorProto.FLOAT),
    ]
    assert graph_costs(saved(tmp_path, nodes, {}, [2, 4]), batch=1).unknown_shapes == 2


def test_a_size_stands_for_dynamic_height_and_width(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    path = saved(tmp_path, nodes, {"w": (8, 3, 1, 1)}, ["batch", 3, "height", "width"])
    assert graph_costs(path, batch=1, size=(4, 6)).flops == 2 * 8 * 4 * 6 * 3
    with pytest.raises(ArtifactError, match=r"dimension 2 of the input 'x' is dynamic.*--image-size"):
        graph_costs(path, batch=1)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no file"):
        graph_costs(tmp_path / "none.onnx", batch=1)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x07")
    with pytest.raises(ArtifactError, match="not an ONNX graph"):
        graph_costs(broken, batch=1)
