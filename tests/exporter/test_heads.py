"""The heads of a graph, and the decisions that stand before them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bbx.exporter.heads import decisions_before, heads_of, unsorted_heads
from bbx.exporter.parts import giving
from tests.calibration.graphs import graph, marked, normal, run

BOXES = "works on boxes"


@pytest.fixture(scope="module")
def two_stages() -> onnx.ModelProto:
    """A score for each of five rows; the best two rows are looked at again, and sorted by what is found."""
    text = """(float[N,5,4] x) => (float[N,1] best, int64[N,1] which) {
        [body] f = MatMul(x, body)
        [score] s = MatMul(f, score)
        [flat] t = Squeeze(s, last)
        [proposals] values, rows = TopK(t, two)
        [wide] r = Unsqueeze(rows, last)
        [narrow] chosen = GatherND<batch_dims=1>(f, r)
        [again] c = MatMul(chosen, again)
        [flat2] u = Squeeze(c, last)
        [finals] best, which = TopK(u, one)
        }"""
    weights = {"body": normal(4, 6), "score": normal(6, 1, seed=1), "again": normal(6, 1, seed=2)}
    weights |= {"two": np.int64([2]), "one": np.int64([1]), "last": np.int64([-1])}
    model = graph(text, weights)
    for node in ("flat", "proposals", "wide", "narrow", "flat2", "finals"):
        marked(model, node, BOXES)
    return model


def test_heads_are_what_only_the_box_arithmetic_reads(two_stages: onnx.ModelProto) -> None:
    assert heads_of(two_stages) == ("s", "c")


def test_a_graph_without_marks_has_no_heads() -> None:
    assert heads_of(graph("(float[N,4] x) => (float[N,6] y) { y = MatMul(x, w) }", {"w": normal(4, 6)})) == ()


def test_the_second_stage_stands_behind_the_choice_of_the_first(two_stages: onnx.ModelProto) -> None:
    assert unsorted_heads(two_stages) == ("s",)
    assert decisions_before(two_stages, ["s", "c", "best"]) == {
        "s": (),
        "c": ("values", "rows"),
        "best": ("best", "which"),
    }


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        ("[n] b = Greater(x, w) \n y = Where(b, x, w)", ("b",)),
        ("f = Floor(x) \n i = Cast<to=7>(f) \n y = Gather(w, i)", ("i",)),
        ("i = ArgMax<axis=1>(x) \n y = Gather(w, i)", ("i",)),
        ("b = Less(x, w) \n i = NonZero(b) \n j = Transpose(i) \n y = GatherND(x, j)", ("i",)),
        ("s = Shape(x) \n y = Expand(w, s)", ()),
        ("h = Cast<to=10>(x) \n y = Cast<to=1>(h)", ()),
        ("q = QuantizeLinear(x, scale, zero) \n y = DequantizeLinear(q, scale, zero)", ()),
    ],
)
def test_what_is_a_decision(nodes: str, wanted: tuple[str, ...]) -> None:
    weights = {"w": normal(4), "scale": np.float32(0.1), "zero": np.int8(0)}
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g (float[N,4] x) => (float y) {{ {nodes} }}'
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items())
    assert decisions_before(model, ["y"]) == {"y": wanted}


def test_with_its_decisions_given_a_part_answers_as_the_whole(two_stages: onnx.ModelProto) -> None:
    x = normal(3, 5, 4)
    decisions = decisions_before(two_stages, ["c"])["c"]
    whole = run(giving(two_stages, ["c", *decisions]), {"x": x})
    part = giving(two_stages, ["c"], given=decisions)
    assert [node.name for node in part.graph.node] == ["body", "wide", "narrow", "again"]
    chosen = dict(zip(decisions, whole[1:], strict=True))
    assert np.array_equal(run(part, {"x": x, **chosen})[0], whole[0])
    other = {**chosen, "rows": (chosen["rows"] + 1) % 5}
    assert not np.array_equal(run(part, {"x": x, **other})[0], whole[0])
