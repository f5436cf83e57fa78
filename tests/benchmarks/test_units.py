from __future__ import annotations

import pytest

from bbx.benchmarks.units import duration, mebibytes, milliseconds, significant


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (123, "0.0001230 ms"),
        (45_678, "0.04568 ms"),
        (1_000_000, "1.000 ms"),
        (12_345_678, "12.35 ms"),
        (2_345_678_900, "2346 ms"),
    ],
)
def test_milliseconds_have_four_digits(ns: int, text: str) -> None:
    assert milliseconds(ns) == text


def test_other_units() -> None:
    assert significant(0) == "0"
    assert mebibytes(3 << 29) == "1536 MiB"
    assert [duration(s) for s in (5, 89, 700, 11_100)] == ["5 s", "89 s", "12 min", "3 h 05 min"]
