"""Equalisation changes no output, and brings channels together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from bbx.calibration.refine.equalise import equalised
from bbx.calibration.refine.walk import Quantisation
from bbx.calibration.sessions import session
from bbx.errors import BbxError
from bbx.exporter.parts import giving


def answers(model: ModelProto, batches: Iterator[dict[str, Any]], names: list[str]) -> list[Any]:
    with session(giving(model, names), "a test", exact=True) as opened:
        return [opened.run(feeds) for feeds in batches]


def test_the_outputs_are_the_same_to_the_last_bit(network: Any) -> None:
    changed, done = equalised(network.model, network.fit)
    assert done
    for before, after in zip(
        answers(network.model, network.held_out(), ["logits"]),
        answers(changed, network.held_out(), ["logits"]),
        strict=True,
    ):
        np.testing.assert_array_equal(before[0], after[0])


def test_a_residual_stream_is_rescaled_as_one_and_what_ends_in_relu6_is_not(network: Any) -> None:
    _, done = equalised(network.model, network.fit)
    assert done[0].tensors == ("stem", "one_narrow", "one_sum", "two_narrow", "two_sum")
    assert done[0].makers == ("make_stem", "make_one_narrow", "make_two_narrow")
    assert done[0].readers == ("make_one_wide", "make_two_wide", "make_head")
    assert done[1].tensors == ("head", "head_relu")
    assert len(done) == 2  # not after the layers with a ReLU6, and not before the classifier


def test_each_factor_reaches_the_channel_that_it_names(network: Any) -> None:
    changed, done = equalised(network.model, network.fit)
    names = ["one_sum", "head_relu", "one_wide"]
    before = answers(network.model, network.held_out(), names)[0]
    after = answers(changed, network.held_out(), names)[0]
    for index, each in enumerate(done):
        assert set(np.log2(each.factors)) <= set(range(-6, 7))
        assert len(set(each.factors)) > 1
        np.testing.assert_array_equal(after[index], before[index] * each.factors.reshape(-1, 1, 1))
    np.testing.assert_array_equal(after[2], before[2])


def test_channels_come_together(network: Any) -> None:
    changed, _ = equalised(network.model, network.fit)

    def spread(model: ModelProto) -> float:
        values = answers(model, network.held_out(), ["two_sum"])[0][0]
        largest = np.abs(values).max(axis=(0, 2, 3))
        return float(largest.max() / largest.min())

    assert spread(changed) < 0.75 * spread(network.model)


def test_it_makes_eight_bits_better(network: Any, quantise: Callable[..., Quantisation], judge: Any) -> None:
    changed, _ = equalised(network.model, network.fit)
    assert judge.error(quantise(changed).graph()) < judge.error(quantise().graph())


def test_a_graph_with_nothing_to_rescale_is_given_back(network: Any) -> None:
    bare = ModelProto()
    bare.CopyFrom(network.model)
    bare.graph.output.extend(
        helper.make_tensor_value_info(name, 1, ["n", None, None, None]) for name in ("one_sum", "head_relu")
    )
    changed, done = equalised(bare, network.fit)
    assert changed is bare
    assert done == ()


def test_a_stream_that_anything_else_reads_is_left(network: Any) -> None:
    other = ModelProto()
    other.CopyFrom(network.model)
    other.graph.node.append(helper.make_node("Sigmoid", ["two_sum"], ["gate"]))
    other.graph.output.append(helper.make_tensor_value_info("gate", 1, ["n", None, None, None]))
    _, done = equalised(other, network.fit)
    assert [each.tensors for each in done] == [("head", "head_relu")]


def test_no_image_is_an_error(network: Any) -> None:
    with pytest.raises(BbxError, match="at least one image"):
        equalised(network.model, lambda: iter(()))
