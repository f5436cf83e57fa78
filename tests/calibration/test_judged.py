"""By which tensors a graph is judged, and the distance itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import pytest

from bbx.calibration.judged import judge_by, judged_tensors
from bbx.errors import ExportError
from tests.calibration.graphs import Arrays, graph, marked, normal

WEIGHTS = {"w": normal(6, 4), "v": normal(6, 3)}


def _batches() -> Iterator[Arrays]:
    for seed in range(3):
        yield {"x": normal(5, 4, seed=seed)}


def _scaled(*factors: float) -> onnx.ModelProto:
    """One output for each factor: the input times a fixed matrix times the factor."""
    outputs = ", ".join(f"float[N,6] y{index}" for index in range(len(factors)))
    nodes = "\n".join(f"y{index} = MatMul(x, w{index})" for index in range(len(factors)))
    weights = {f"w{index}": normal(4, 6) * np.float32(factor) for index, factor in enumerate(factors)}
    return graph(f"(float[N,4] x) => ({outputs}) {{ {nodes} }}", weights)


def test_every_float_output_judges() -> None:
    assert judged_tensors(_scaled(1, 2)) == ("y0", "y1")


def test_behind_labels_the_scores_judge() -> None:
    text = """(float[N,4] x) => (int32[N,1] labels) {
        s = Gemm<transB=1>(x, w)
        a = ArgMax<axis=1>(s)
        labels = Cast<to=6>(a)
        }"""
    assert judged_tensors(graph(text, {"w": WEIGHTS["w"]})) == ("s",)


def test_a_constant_before_what_is_decided_about_is_passed_over() -> None:
    text = "(float[N,4] x) => (bool[N,6] few) { s = Gemm<transB=1>(x, w) \n few = Less(half, s) }"
    assert judged_tensors(graph(text, {"w": WEIGHTS["w"], "half": np.float32(0.5)})) == ("s",)


def test_of_decisions_that_are_joined_all_judge() -> None:
    text = """(float[N,4] x) => (int64[N,2] classes) {
        s = Gemm<transB=1>(x, w)
        t = Gemm<transB=0>(x, v)
        a = ArgMax<axis=1>(s)
        b = ArgMax<axis=1>(t)
        classes = Concat<axis=1>(a, b)
        }"""
    assert judged_tensors(graph(text, {"w": WEIGHTS["w"], "v": normal(4, 3)})) == ("s", "t")


def test_a_graph_without_numbers_cannot_be_judged() -> None:
    model = graph("(int64[N] ids) => (int64[N] same) { same = Neg(ids) }")
    with pytest.raises(ExportError, match="no output of it comes from a tensor of float32"):
        judged_tensors(model)


def test_an_input_that_is_passed_on_does_not_judge() -> None:
    text = (
        "(float[N,4] x, int64[N] ids) => (float[N,4] y, int64[N] same) { y = Neg(x) \n same = Identity(ids) }"
    )
    assert judged_tensors(graph(text)) == ("y",)


def test_a_detector_is_judged_by_its_heads() -> None:
    text = """(float[N,4] x) => (float[N,2] scores, int64[N,2] rows) {
        [head] h = Gemm<transB=1>(x, w)
        [sigmoid] s = Sigmoid(h)
        [top] scores, rows = TopK(s, k)
        }"""
    model = graph(text, {"w": WEIGHTS["w"], "k": np.int64([2])})
    for node in ("sigmoid", "top"):
        marked(model, node, "decodes boxes")
    assert judged_tensors(model) == ("h",)


def _two_stages(second: float, first: float = 1.0) -> onnx.ModelProto:
    """Scores of five rows; the two best are looked at again. The factors change each stage's weights."""
    text = """(float[N,5,4] x) => (float[N,1] best, int64[N,1] rows) {
        s = MatMul(x, score)
        [flat] t = Squeeze(s, last)
        [proposals] v, r = TopK(t, two)
        [wide] i = Unsqueeze(r, last)
        [narrow] chosen = GatherND<batch_dims=1>(x, i)
        c = MatMul(chosen, again)
        [flat2] u = Squeeze(c, last)
        [finals] best, rows = TopK(u, one)
        }"""
    weights = {"score": normal(4, 1) * np.float32(first), "again": normal(4, 1, seed=2) * np.float32(second)}
    weights |= {"two": np.int64([2]), "one": np.int64([1]), "last": np.int64([-1])}
    model = graph(text, weights)
    for node in ("flat", "proposals", "wide", "narrow", "flat2", "finals"):
        marked(model, node, "works on boxes")
    return model


def _rows() -> Iterator[Arrays]:
    for seed in range(3):
        yield {"x": normal(2, 5, 4, seed=seed)}


def test_a_second_stage_is_judged_on_the_choice_of_the_reference() -> None:
    judge = judge_by(_two_stages(1.0), _rows)
    assert (judge.names, judge.decisions) == (("s", "c"), ("v", "r"))
    assert judge.error(_two_stages(1.1)) == pytest.approx(0.1 / np.sqrt(2), rel=1e-4)
    assert judge.error(_two_stages(1.0, first=1.1)) == pytest.approx(0.1 / np.sqrt(2), rel=1e-4)
    # Another choice altogether, and still the same question to the second stage.
    assert judge.error(_two_stages(1.0, first=-1.0)) == pytest.approx(2 / np.sqrt(2), rel=1e-4)


def test_each_stage_counts_for_a_half() -> None:
    text = """(float[N,4] x) => (float[N,2] a, float[N,2] b, float[N,2] y) {
        a = MatMul(x, w) \n b = MatMul(x, w)
        big = Greater(a, b) \n c = Where(big, a, b) \n y = MatMul(c, v) }"""
    model = graph(text, {"w": normal(4, 2), "v": normal(2, 2)})
    assert judge_by(model, _batches).shares == (0.25, 0.25, 0.5)


def test_of_a_graph_without_marks_what_is_sorted_judges() -> None:
    text = """(float[N,4] x) => (float[N,2] scores, int64[N,2] rows) {
        s = Gemm<transB=1>(x, w) \n scores, rows = TopK(s, k) }"""
    assert judged_tensors(graph(text, {"w": WEIGHTS["w"], "k": np.int64([2])})) == ("s",)


def test_a_graph_is_no_distance_from_itself() -> None:
    model = _scaled(1.0)
    assert judge_by(model, _batches).error(model) == 0.0


def test_the_distance_is_relative_l2_and_over_tensors_the_root_of_the_mean_square() -> None:
    judge = judge_by(_scaled(1.0, 1000.0), _batches)
    assert judge.error(_scaled(1.1, 1000.0)) == pytest.approx(0.1 / np.sqrt(2), rel=1e-4)
    assert judge.error(_scaled(1.0, 900.0)) == pytest.approx(0.1 / np.sqrt(2), rel=1e-4)
    assert judge.error(_scaled(1.3, 1400.0)) == pytest.approx(np.sqrt((0.09 + 0.16) / 2), rel=1e-4)


def test_the_distance_is_over_all_images_together() -> None:
    judge = judge_by(_scaled(1.0), _batches)
    noise = iter([normal(5, 6, seed=9), normal(5, 6, seed=8), normal(5, 6, seed=7)])
    wanted = [reference[0] for reference in judge.reference]
    answers = [each + 0.1 * next(noise) for each in wanted]
    turn = iter(answers)
    apart = np.linalg.norm(np.concatenate(answers) - np.concatenate(wanted))
    assert judge.error_of(lambda _: [next(turn)]) == pytest.approx(
        apart / np.linalg.norm(np.concatenate(wanted)), rel=1e-5
    )


def test_a_reference_of_zeros_does_not_divide_by_zero() -> None:
    judge = judge_by(_scaled(0.0), _batches)
    assert judge.error(_scaled(0.0)) == 0.0
    with np.errstate(over="ignore"):
        assert judge.error(_scaled(1.0)) > 1e6


def test_further_inputs_are_the_same_for_every_batch() -> None:
    text = "(float[N,4] x, float[1] f) => (float[N,6] y0) { a = MatMul(x, w0) \n y0 = Mul(a, f) }"
    candidate = graph(text, {"w0": normal(4, 6)})
    judge = judge_by(_scaled(1.0), _batches)
    assert judge.error(candidate, {"f": np.float32([1.25])}) == pytest.approx(0.25, rel=1e-5)


def test_another_number_of_batches_is_a_defect() -> None:
    judge = judge_by(_scaled(1.0), _batches)
    shorter = replace(judge, batches=lambda: [next(_batches())])
    with pytest.raises(ValueError, match="zip"):
        shorter.error(_scaled(1.0))
