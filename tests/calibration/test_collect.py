"""Collection in one pass: the values of a direct run, batches that are let go, and broken data refused."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bbx import process
from bbx.calibration.collect import collect
from bbx.calibration.histograms import Histogram
from bbx.calibration.sessions import Session
from bbx.errors import BbxError
from bbx.exporter.parts import giving
from tests.calibration.graphs import Arrays, graph, normal, operators, run

WEIGHTS = {"w": normal(4, 3, 3, 3), "v": normal(5, 4)}


def _net() -> onnx.ModelProto:
    text = """(float[N,3,8,8] x) => (float[N,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, w)
        b = Relu(a)
        c = GlobalAveragePool(b)
        d = Flatten(c)
        y = Gemm<transB=1>(d, v)
        }"""
    return graph(text, WEIGHTS)


def _batches(count: int, rows: int = 4) -> list[Arrays]:
    return [{"x": normal(rows, 3, 8, 8, seed=seed)} for seed in range(count)]


def _same(ours: Histogram, wanted: Histogram) -> None:
    """The kernel of a layer may round another way when its result is an output."""
    assert (ours.total, ours.negative, ours.finite) == (wanted.total, wanted.negative, wanted.finite)
    assert ours.largest == pytest.approx(wanted.largest, rel=1e-5)
    apart = np.abs(np.cumsum(ours.counts[:-8]) - np.cumsum(wanted.counts[: ours.counts.size])[:-8])
    assert apart.max() <= 2


def test_histograms_are_those_of_a_direct_run() -> None:
    names = ["x", "b", "d"]
    found = collect(_net(), names, _batches(3), images=12)
    assert list(found) == names
    wanted = {name: Histogram() for name in names}
    shown = _net()
    shown.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("b", "d")
    )
    for feeds in _batches(3):
        _, b, d = run(shown, feeds)
        for name, values in (("x", feeds["x"]), ("b", b), ("d", d)):
            wanted[name].add(values)
    assert found["x"].counts.tobytes() == wanted["x"].counts.tobytes()
    for name in names:
        _same(found[name], wanted[name])


def test_the_same_again_is_the_same_bytes_and_the_batch_size_hardly_matters() -> None:
    first, second = (collect(_net(), ["x", "d"], _batches(3)) for _ in range(2))
    assert [h.counts.tobytes() for h in first.values()] == [h.counts.tobytes() for h in second.values()]
    rows = [{"x": batch["x"][row : row + 1]} for batch in _batches(3) for row in range(4)]
    singly = collect(_net(), ["x", "d"], rows)
    assert singly["x"].counts.tobytes() == first["x"].counts.tobytes()
    _same(singly["d"], first["d"])


def test_batches_and_activations_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    def watched(arrays: list[Any]) -> None:
        nonlocal most
        alive.extend(weakref.ref(array) for array in arrays)
        most = max(most, sum(each() is not None for each in alive))

    def batches(count: int) -> Iterator[Arrays]:
        for seed in range(count):
            feeds = {"x": normal(2, 3, 8, 8, seed=seed)}
            watched(list(feeds.values()))
            yield feeds

    plain = Session.run

    def run_and_watch(self: Session, *arguments: Any) -> list[Any]:
        found = plain(self, *arguments)
        watched(found)
        return found

    monkeypatch.setattr(Session, "run", run_and_watch)
    collect(_net(), ["x", "b", "d"], batches(4))
    few = most
    collect(_net(), ["x", "b", "d"], batches(40))
    assert most == few
    assert len(alive) == 44 * 3


def _watch_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Images and outputs of every run from now on."""
    runs: list[tuple[int, int]] = []
    plain = Session.run

    def watched(self: Session, feeds: Arrays, *arguments: Any) -> list[Any]:
        runs.append((len(feeds["x"]), len(self.outputs)))
        return plain(self, feeds, *arguments)

    monkeypatch.setattr(Session, "run", watched)
    return runs


def test_every_image_runs_once_and_gives_nothing_but_what_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = _watch_runs(monkeypatch)
    collect(_net(), ["b"], _batches(3, rows=5))
    assert sum(rows for rows, _ in runs) == 15
    assert {outputs for _, outputs in runs} == {1}


def test_large_batches_run_in_parts_where_the_graph_lets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = _watch_runs(monkeypatch)
    whole = collect(_net(), ["x", "d"], _batches(1, rows=32))
    assert max(rows for rows, _ in runs) < 32
    runs.clear()
    fixed = _net()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 32
    again = collect(fixed, ["x", "d"], _batches(1, rows=32))
    assert runs == [(32, 1)]
    assert again["x"].counts.tobytes() == whole["x"].counts.tobytes()
    _same(again["d"], whole["d"])


def test_progress_tells_the_share_of_the_images() -> None:
    told: list[Any] = []
    with process.listening(told.append):
        collect(_net(), ["x"], _batches(2), images=8)
    shares = [each.fraction for each in told if each.stage == "calibrate"]
    assert shares == sorted(shares)
    assert {0.5, 1.0} <= set(shares)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_broken_image_is_refused_at_its_batch(broken: float) -> None:
    batches = _batches(5)
    batches[2]["x"][3, 0, 0, 0] = broken
    read = []

    def watched() -> Iterator[Arrays]:
        for number, batch in enumerate(batches):
            read.append(number)
            yield batch

    with pytest.raises(BbxError, match="hold a NaN or an infinity within the first 12 images") as caught:
        collect(_net(), ["x", "b"], watched())
    assert "'x'" in caught.value.message
    assert read == [0, 1, 2]


def test_a_network_that_overflows_is_refused_too() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { a = Exp(x) \n y = Relu(a) }"
    with pytest.raises(BbxError, match="'a', hold"):
        collect(graph(text), ["x", "a"], [{"x": np.full((1, 4), 100, np.float32)}])


def test_no_images_are_refused() -> None:
    with pytest.raises(BbxError, match="at least one image") as caught:
        collect(_net(), ["x"], [])
    assert "--calib" in caught.value.hint


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(BbxError, match="ONNX Runtime cannot run the graph for calibration"):
        collect(_net(), ["b"], [{"x": normal(1, 4, 8, 8)}])


def test_only_what_the_tensors_need_is_run() -> None:
    part = giving(_net(), ["b"])
    assert operators(part) == ["Conv", "Relu"]
    assert [tensor.name for tensor in part.graph.initializer] == ["w"]
    feeds = _batches(1)[0]
    np.testing.assert_array_equal(run(part, feeds)[0].shape, (4, 4, 8, 8))


def test_what_a_subgraph_reads_is_needed_too() -> None:
    text = """(float[N,4] x, bool which) => (float[N,4] y) {
        a = Neg(x)
        b = Exp(x)
        c = If (which) <
            then_branch = t () => (float[N,4] p) { p = Add(a, w) },
            else_branch = e () => (float[N,4] q) { q = Identity(a) }
        >
        y = Add(c, b)
        }"""
    model = graph(text, {"w": normal(4)})
    part = giving(model, ["c"])
    assert operators(part) == ["Neg", "If"]
    x = normal(2, 4)
    (c,) = run(part, {"x": x, "which": np.asarray(True)})
    np.testing.assert_allclose(c, normal(4) - x, rtol=1e-6)


def test_a_graph_of_which_only_inputs_are_counted_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "run", lambda *_: pytest.fail("it was run"))
    found = collect(_net(), ["x"], _batches(2))
    assert found["x"].total == 2 * 4 * 3 * 8 * 8
