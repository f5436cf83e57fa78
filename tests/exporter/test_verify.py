"""Distances, verdicts and what proves nothing, on literal arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bbx.errors import CheckFailed
from bbx.exporter import verify
from bbx.exporter.verify import FAR, TOLERANCES, Case, Distance, Tolerance, compare, distance

STRICT = TOLERANCES["fp32"]


def _array(*values: Any, dtype: str = "float32") -> Any:
    return np.array(values, dtype)


# --- distances --------------------------------------------------------------------------------------


def test_the_distance_is_what_the_formulas_say() -> None:
    found = distance(_array(3, 4), _array(3, 4.5))
    assert found.max_abs == 0.5
    assert found.rel_l2 == pytest.approx(0.5 / 5)
    assert found.cosine == pytest.approx((9 + 18) / (5 * np.hypot(3, 4.5)))


def test_equal_arrays_are_at_no_distance_of_any_dtype() -> None:
    for dtype in ("float16", "float32", "float64", "int64", "uint8", "bool"):
        found = distance(_array(1, 0, 1, dtype=dtype), _array(1, 0, 1, dtype=dtype))
        assert (found.max_abs, found.rel_l2, found.cosine) == (0, 0, 1), dtype
    assert distance(_array(0, 0), _array(0, 0)) == Distance(0, 0, 1)


def test_opposite_and_orthogonal_vectors() -> None:
    assert distance(_array(1, 2), _array(-1, -2)).cosine == pytest.approx(-1)
    assert distance(_array(1, 0), _array(0, 1)).cosine == 0
    assert distance(_array(1, 0), _array(0, 1)).rel_l2 == pytest.approx(np.sqrt(2))


def test_numbers_that_float16_cannot_hold_are_compared_in_float64() -> None:
    large = np.full(1000, 60_000, np.float16)
    assert distance(large, large - np.float16(32)).rel_l2 == pytest.approx(32 / 60_000, rel=1e-3)


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (_array(1, 2), _array(1, 2, 3)),
        (_array(1, 2), _array([1, 2])),
        (_array(1, 2), _array(1, np.nan)),
        (_array(1, 2), _array(1, np.inf)),
        (_array(1, np.inf), _array(1, np.inf)),
    ],
)
def test_what_cannot_be_compared_is_far(reference: Any, candidate: Any) -> None:
    assert distance(reference, candidate) == FAR
    assert not FAR.within(TOLERANCES["bf16"])


def test_one_of_the_two_all_zero_is_infinitely_far() -> None:
    for pair in ((_array(0, 0), _array(0, 3)), (_array(0, 3), _array(0, 0))):
        found = distance(*pair)
        assert (found.max_abs, found.rel_l2, found.cosine) == (3, np.inf, 0)


@pytest.mark.parametrize(
    ("rel_l2", "cosine", "within"),
    [(1e-4, 0.9999, True), (1.0001e-4, 0.9999, False), (1e-4, 0.99989, False), (0, 1, True)],
)
def test_a_tolerance_includes_its_edge(rel_l2: float, cosine: float, within: bool) -> None:
    assert Distance(0, rel_l2, cosine).within(STRICT) == within


def test_fp32s_tolerance_is_the_contracts() -> None:
    assert Tolerance(rel_l2=1e-4, cosine=0.9999) == STRICT


# --- what proves nothing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ([_array([0, 0]), _array([0, 0], [0, 0])], "all zero"),
        ([_array([2, 2]), _array([2, 2], [2, 2])], "constant"),
        ([_array([1, 2]), _array([1, np.nan])], "not finite"),
        ([_array([1, 2]), _array([1, -np.inf])], "not finite"),
        ([_array([1, 2]), _array([1, 2], [1, 2])], "whatever goes in"),
        ([_array([1, 2]), _array([1, 2.00001], [1, 2])], "whatever goes in"),
        ([_array([True, True], dtype="bool")], "constant"),
        ([np.zeros((2, 0), np.float32)], "all zero"),
    ],
)
def test_references_that_prove_nothing(outputs: list[Any], said: str) -> None:
    [reason] = verify.proves_nothing([{"logits": value} for value in outputs])
    assert said in reason
    assert "'logits'" in reason


@pytest.mark.parametrize(
    "outputs",
    [
        [_array([1, 2]), _array([2, 1])],
        [_array([1, 2], [3, 4])],
        [_array([5]), _array([6])],  # one number a case, and another one for another input
        [_array([[3, 3], [3, 3]]), _array([[4, 4], [4, 4]])],
        [_array([True, False], dtype="bool")],
        [_array([1, 2], dtype="int64"), _array([7, 2], dtype="int64")],
    ],
)
def test_references_that_tell_inputs_apart(outputs: list[Any]) -> None:
    assert verify.proves_nothing([{"logits": value} for value in outputs]) == ()


def test_each_output_is_judged_by_itself() -> None:
    references = [{"a": _array([1, 2]), "b": _array([0, 0])}, {"a": _array([4, 2]), "b": _array([0, 0])}]
    [reason] = verify.proves_nothing(references)
    assert "'b' is all zero" in reason


# --- verdicts ---------------------------------------------------------------------------------------

CASES = [Case(1, "photographs", {"x": _array([1, 2])}), Case(2, "noise", {"x": _array([3, 4], [5, 7])})]
REFERENCES = [{"y": 2 * case.feeds["x"]} for case in CASES]


def test_agreement_passes_with_every_distance_reported() -> None:
    parity = compare(CASES, REFERENCES, lambda feeds: {"y": 2 * feeds["x"]}, STRICT, against="torch")
    assert (parity.verdict, parity.reasons) == ("pass", ())
    shown = parity.to_json()
    assert [(case["batch"], case["input"]) for case in shown["cases"]] == [(1, "photographs"), (2, "noise")]
    assert shown["cases"][0]["outputs"] == {"y": {"max_abs": 0.0, "rel_l2": 0.0, "cosine": 1.0}}


def test_a_failure_says_which_output_on_which_input_how_far_worst_first() -> None:
    def infer(feeds: verify.Arrays) -> verify.Arrays:
        return {"y": feeds["x"] * (2.5 if len(feeds["x"]) == 2 else 2.2)}

    parity = compare(CASES, REFERENCES, infer, STRICT, against="torch")
    assert parity.verdict == "fail"
    assert len(parity.reasons) == 2
    assert "Output 'y' on noise at batch 2: relative L2 2.50e-01 (at most 1e-04)" in parity.reasons[0]
    with pytest.raises(
        CheckFailed, match=r"net\.onnx does not agree with torch. Output 'y' on noise"
    ) as caught:
        verify.require_parity(parity, "net.onnx", {"document": 1})
    assert caught.value.document == {"document": 1}


def test_an_infinite_distance_is_null_in_json() -> None:
    parity = compare(CASES, REFERENCES, lambda feeds: {"y": feeds["x"] * np.nan}, STRICT, against="torch")
    outputs = parity.to_json()["cases"][0]["outputs"]["y"]
    assert outputs == {"max_abs": None, "rel_l2": None, "cosine": 0.0}


def test_a_reference_that_proves_nothing_never_passes_or_fails() -> None:
    zeros = [{"y": np.zeros_like(reference["y"])} for reference in REFERENCES]
    for factor in (0, 1):
        parity = compare(CASES, zeros, lambda feeds, f=factor: {"y": f * feeds["x"]}, STRICT, against="torch")
        assert parity.verdict == "inconclusive"
        assert "all zero" in parity.reasons[0]
        verify.require_parity(parity, "net.onnx", {})


@pytest.mark.parametrize(
    ("batch", "fixed", "wanted"),
    [(2, False, (1, 2, 3)), (3, False, (1, 3, 4)), (1, False, (1, 3)), (4, True, (4,))],
)
def test_batches(batch: int, fixed: bool, wanted: tuple[int, ...]) -> None:
    assert verify.batches_to_try(batch, fixed=fixed) == wanted


def test_references_are_copies() -> None:
    buffer = np.zeros(2, np.float32)

    def infer(feeds: verify.Arrays) -> verify.Arrays:
        buffer[:] = feeds["x"].ravel()[:2]
        return {"y": buffer}

    first, second = verify.reference_outputs(CASES, infer)
    assert (first["y"].tolist(), second["y"].tolist()) == ([1, 2], [3, 4])
