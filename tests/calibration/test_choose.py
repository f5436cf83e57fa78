"""What is chosen is what lowers the error on held-out images, and only where it is cheap."""

from __future__ import annotations

import pytest

from bbx.calibration.choose import GAIN
from bbx.calibration.quantise import Quantised, Recipe, quantised_from_onnx
from bbx.calibration.thresholds import CANDIDATES
from tests.calibration import planted


def _by(method: str, outlier: float = 200.0) -> Quantised:
    return quantised_from_onnx(planted.with_outlier(), Recipe(method=method), planted.rows(outlier))


def test_max_loses_where_an_outlier_stretches_a_tensor() -> None:
    chosen, plain = _by("auto"), _by("max")
    assert chosen.methods["x"] != "max"
    assert chosen.error < 0.5 * plain.error


def test_auto_is_at_least_as_good_as_every_method_by_itself() -> None:
    chosen = _by("auto")
    assert chosen.error <= min(_by(method).error for method in CANDIDATES if method != "max") * 1.0001


def test_every_trial_is_recorded_and_one_a_group_is_taken() -> None:
    chosen = _by("auto")
    groups = {"first": "x", "last": "b"}
    for group, tensor in groups.items():
        trials = {trial.what.removeprefix(f"{group}: "): trial for trial in chosen.trials}
        found = {method: trials[method] for method in CANDIDATES}
        (taken,) = [method for method, trial in found.items() if trial.taken]
        assert taken == chosen.methods[tensor]
        assert found[taken].error == min(trial.error for trial in found.values())


def test_a_bad_depthwise_layer_is_kept_where_it_weighs_little() -> None:
    quantised = quantised_from_onnx(planted.with_bad_depthwise(512), Recipe(), planted.pictures())
    kept = {node.name: node.reason for node in quantised.kept}
    assert list(kept) == ["deep"]
    assert kept["deep"].startswith("depthwise layer: in floating point such layers lower the squared error")
    (trial,) = [trial for trial in quantised.trials if trial.what == "depthwise layers in floating point"]
    assert trial.taken
    assert trial.error == pytest.approx(quantised.error)
    before = min(trial.error for trial in quantised.trials if trial.what.startswith("depthwise: "))
    assert 1 - (trial.error / before) ** 2 > GAIN


def test_a_group_that_holds_much_of_the_weights_is_not_tried() -> None:
    quantised = quantised_from_onnx(planted.with_bad_depthwise(64), Recipe(), planted.pictures())
    assert quantised.kept == ()
    assert "depthwise layers in floating point" not in [trial.what for trial in quantised.trials]
    assert quantised.error > 0.05


def test_a_good_layer_is_tried_and_quantised_all_the_same() -> None:
    quantised = quantised_from_onnx(planted.chain(24), Recipe(), planted.chain_rows())
    tried = {trial.what: trial.taken for trial in quantised.trials if "floating point" in trial.what}
    assert tried == {"first layers in floating point": False, "last layers in floating point": False}
    assert quantised.kept == ()
