"""The gate of an evaluation, and values as JSON has them."""

from __future__ import annotations

import math

import pytest

from bbx.evaluation.documents import gate_of, plain


@pytest.mark.parametrize(
    ("values", "max_drop", "verdict"),
    [
        ([0.99, 0.98], 0.01, "pass"),
        ([1.0, 0.99], 0.01, "pass"),  # which is 0.010000000000000009 in binary
        ([1.0, 0.9899], 0.01, "fail"),
        ([0.9, 0.95], 0.0, "pass"),
        ([0.9, 0.9, 0.89], 0.005, "fail"),
        ([0.9, None], 0.5, "fail"),  # nobody knows what it lost
        ([None, 0.9], 0.5, "fail"),
        ([0.9], 0.0, "pass"),
    ],
)
def test_what_is_worse_by_more_than_was_allowed(
    values: list[float | None], max_drop: float, verdict: str
) -> None:
    results = [
        {"artifact": f"{number}.onnx", "runtime": "ort-cpu", "metrics": {"top1": value}}
        for number, value in enumerate(values)
    ]
    gate = gate_of(results, "top1", max_drop)
    assert gate is not None
    assert gate["verdict"] == verdict
    assert (f"{len(values) - 1}.onnx on ort-cpu" in gate["reason"]) == (verdict == "fail")
    assert gate_of(results, "top1", None) is None


def test_json_has_no_nan() -> None:
    assert plain({"a": math.nan, "b": [1, (math.inf, "x")], 3: None}) == {
        "a": None,
        "b": [1, [None, "x"]],
        "3": None,
    }
