from __future__ import annotations

from bbx.costs.liveness import Use, peak_bytes

SIZES = {"x": 10, "a": 100, "b": 20, "y": 5}


def uses(*values: str) -> list[Use[str]]:
    return [Use(set(names)) for names in values]


def test_a_chain_needs_the_largest_pair_of_neighbours() -> None:
    # x→a: 110, a→b: 120, b→y: 25
    assert peak_bytes(uses("xa", "ab", "by"), SIZES, inputs="x", outputs="y") == 120


def test_a_residual_keeps_its_input_alive() -> None:
    # x→a: 110, a→b with x to come: 130, x+b→y: 35
    assert peak_bytes(uses("xa", "ab", "xby"), SIZES, inputs="x", outputs="y") == 130


def test_an_output_stays_to_the_end() -> None:
    # a is given back too, so it is alive while y is made: 100 + 20 + 5
    assert peak_bytes(uses("xa", "ab", "by"), SIZES, inputs="x", outputs="ay") == 125


def test_an_input_is_there_from_the_start() -> None:
    assert peak_bytes(uses("ab", "bxy"), SIZES, inputs="x", outputs="y") == 130


def test_weights_count_for_nothing() -> None:
    assert peak_bytes(uses("xwy"), SIZES, inputs="x", outputs="y") == 15


def test_a_network_that_does_nothing_needs_its_input() -> None:
    assert peak_bytes(uses("x"), SIZES, inputs="x", outputs="x") == 10
