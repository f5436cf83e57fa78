"""Small networks with the parts that refinement meets, and images for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bbx.calibration.collect import collect
from bbx.calibration.judged import judge_by
from bbx.calibration.placement import place
from bbx.calibration.refine.walk import Quantisation
from bbx.calibration.thresholds import scale_of, threshold
from bbx.calibration.to_qdq import EightBit
from bbx.calibration.weights import quantised_weight

CHANNELS, WIDE = 12, 36


class Builder:
    """Nodes one after the other, with seeded weights."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors = [numpy_helper.from_array(np.float32(v), n) for n, v in (("low", 0), ("high", 6))]
        self.random = np.random.default_rng(11)

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"make_{output}", **attributes))
        return output

    def tensor(self, name: str, values: Any) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def conv(
        self, x: str, output: str, shape: tuple[int, ...], *, bias: bool = True, **attributes: Any
    ) -> str:
        """Channels differ in size by up to 16, as those of depthwise networks do."""
        size = np.exp2(self.random.uniform(-2, 2, shape[0])).reshape(-1, 1, 1, 1)
        weight = self.random.standard_normal(shape) * size / np.sqrt(np.prod(shape[1:]))
        inputs = [x, self.tensor(f"{output}_w", weight)]
        if bias:
            inputs.append(
                self.tensor(f"{output}_b", self.random.standard_normal(shape[0]) * size.ravel() / 4)
            )
        pad = shape[2] // 2
        return self.add("Conv", inputs, output, pads=[pad] * 4, **attributes)

    def block(self, x: str, name: str) -> str:
        """An inverted residual: wider, depthwise, narrower, added."""
        wide = self.add(
            "Clip", [self.conv(x, f"{name}_wide", (WIDE, CHANNELS, 1, 1)), "low", "high"], f"{name}_1"
        )
        deep = self.conv(wide, f"{name}_deep", (WIDE, 1, 3, 3), group=WIDE, bias=False)
        deep = self.add("Clip", [deep, "low", "high"], f"{name}_2")
        return self.add("Add", [self.conv(deep, f"{name}_narrow", (CHANNELS, WIDE, 1, 1)), x], f"{name}_sum")


def images(seed: int, count: int = 4, size: int = 32) -> Callable[[], Iterator[dict[str, Any]]]:
    """Smooth noise, in batches of eight; the same each time."""

    def batches() -> Iterator[dict[str, Any]]:
        random = np.random.default_rng(seed)
        for _ in range(count):
            coarse = random.standard_normal((8, 3, size // 4, size // 4))
            fine = coarse.repeat(4, axis=2).repeat(4, axis=3) + 0.3 * random.standard_normal(
                (8, 3, size, size)
            )
            yield {"images": fine.astype(np.float32)}

    return batches


@pytest.fixture(scope="session")
def network() -> Any:
    """A stem, two inverted residuals, a ReLU between two convolutions, a classifier; and its images.

    Attributes: model, placement, fit (batches), held_out (batches).
    """
    build = Builder()
    x = build.conv("images", "stem", (CHANNELS, 3, 3, 3), strides=[2, 2])
    x = build.block(build.block(x, "one"), "two")
    x = build.add("Relu", [build.conv(x, "head", (24, CHANNELS, 3, 3), strides=[2, 2])], "head_relu")
    x = build.add("Relu", [build.conv(x, "tail", (24, 24, 1, 1), bias=False)], "tail_relu")
    x = build.add("Flatten", [build.add("GlobalAveragePool", [x], "pooled")], "flat")
    weight = build.random.standard_normal((10, 24)) / 5
    build.add("Gemm", [x, build.tensor("logits_w", weight)], "logits", transB=1)
    graph = helper.make_graph(
        build.nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        build.tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return SimpleNamespace(model=model, placement=place(model), fit=images(1), held_out=images(2))


@pytest.fixture(scope="session")
def quantise(network: Any) -> Callable[..., Quantisation]:
    """Quantise a graph of that network plainly: thresholds by least error, weights to nearest."""

    def plainly(model: Any = None, kind: EightBit = "int8") -> Quantisation:
        model = network.model if model is None else model
        placement = place(model)
        seen = collect(model, placement.activations, network.fit())
        scales = {name: scale_of(threshold(h, "mse", kind), kind) for name, h in seen.items()}
        tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        weights = {
            layer.weight: quantised_weight(tensors[layer.weight], layer.axis, kind, "max")
            for layer in placement.layers
        }
        return Quantisation(model, placement, scales, weights, kind)

    return plainly


@pytest.fixture(scope="session")
def judge(network: Any) -> Any:
    """Of the held-out images."""
    return judge_by(network.model, network.held_out)
