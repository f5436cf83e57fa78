"""The task's own measure: labels where there are some, else agreement with FP32."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from bbx.calibration.accuracy import accuracy_of
from bbx.types import Postprocess
from tests.calibration.graphs import Arrays, graph, normal


def _classifier(shift: int = 0, output: str = "logits") -> onnx.ModelProto:
    """Gives its input, one-hot rows, with classes moved on by `shift`."""
    weight = np.roll(np.eye(4, dtype=np.float32), shift, axis=1)
    return graph(f"(float[N,4] x) => (float[N,4] {output}) {{ {output} = MatMul(x, w) }}", {"w": weight})


def _batches() -> Iterator[Arrays]:
    classes = np.int64([0, 1, 2, 3, 0, 1])
    yield {"x": np.eye(4, dtype=np.float32)[classes[:4]]}
    yield {"x": np.eye(4, dtype=np.float32)[classes[4:]]}


CLASSIFICATION = Postprocess("classification", num_classes=4)


def test_without_labels_a_classifier_is_judged_by_agreement() -> None:
    found = accuracy_of(_classifier(), _batches, CLASSIFICATION)
    assert (found.name, found.of, found.baseline) == ("top1_agreement", 6, 1.0)
    assert found.score(_classifier()) == 1.0
    assert found.score(_classifier(1)) == 0.0


def test_a_graph_of_unknown_purpose_is_taken_for_a_classifier() -> None:
    found = accuracy_of(_classifier(output="anything"), _batches, None)
    assert (found.name, found.score(_classifier(output="anything"))) == ("top1_agreement", 1.0)


def test_with_labels_both_graphs_are_judged_by_them() -> None:
    found = accuracy_of(_classifier(), _batches, CLASSIFICATION, labels=[0, 1, 2, 0, 1, 2])
    assert (found.name, found.of) == ("top1", 6)
    assert found.baseline == pytest.approx(3 / 6)
    # Moved on by one, the answers are 1 2 3 0 1 2.
    assert found.score(_classifier(1)) == pytest.approx(3 / 6)
    assert found.score(_classifier(2)) == pytest.approx(0)


def test_a_quantised_graph_may_be_better_than_fp32() -> None:
    found = accuracy_of(_classifier(1), _batches, CLASSIFICATION, labels=[0, 1, 2, 3, 0, 2])
    assert found.baseline == pytest.approx(1 / 6)
    assert found.score(_classifier()) == pytest.approx(5 / 6)


def test_labels_by_which_fp32_is_never_right_do_not_judge() -> None:
    found = accuracy_of(_classifier(1), _batches, CLASSIFICATION, labels=[0, 1, 2, 3, 0, 1])
    assert (found.name, found.baseline) == ("top1_agreement", 1.0)
    assert found.score(_classifier()) == 0.0


@pytest.mark.parametrize("argmax", [False, True])
def test_a_segmenter_is_judged_by_its_pixels(argmax: bool) -> None:
    def segmenter(factor: float) -> onnx.ModelProto:
        end = (
            "a = ArgMax<axis=1, keepdims=0>(s) \n labels = Cast<to=6>(a)"
            if argmax
            else "logits = Identity(s)"
        )
        output = "int32[N,5,5] labels" if argmax else "float[N,2,5,5] logits"
        text = f"(float[N,3,5,5] x) => ({output}) {{ s = Conv(x, w, b) \n {end} }}"
        return graph(text, {"w": normal(2, 3, 1, 1), "b": np.float32([0, factor])})

    def images() -> Iterator[Arrays]:
        for seed in range(2):
            yield {"x": normal(2, 3, 5, 5, seed=seed)}

    task = Postprocess("segmentation", num_classes=2)
    found = accuracy_of(segmenter(0), images, task, labels=[0, 0, 0, 0])
    assert (found.name, found.of, found.baseline) == ("pixel_agreement", 4 * 25, 1.0)
    assert found.score(segmenter(0)) == 1.0
    assert 0 < found.score(segmenter(0.5)) < 1
    everything_second = found.score(segmenter(1000))
    assert everything_second + found.score(segmenter(-1000)) == pytest.approx(1)


def _detector(scores: list[float], shift: float = 0.0) -> onnx.ModelProto:
    """As many of the input's boxes as there are scores, moved by `shift`; the other rows are padding."""
    text = """(float[1,3,4] images) => (float[1,3,4] boxes, float[1,3] scores, int64[1,3] labels,
                                        int64[1] num_detections) {
        moved = Add(images, by)
        boxes = Mul(moved, there)
        scores = Identity(given)
        labels = Identity(classes)
        num_detections = Identity(count)
        }"""
    used = np.arange(3) < len(scores)
    constants = {
        "by": np.float32([shift, 0, shift, 0]),
        "there": used[None, :, None].astype(np.float32),
        "given": np.float32([scores + [0.0] * (3 - len(scores))]),
        "classes": np.where(used, 1, -1)[None],
        "count": np.int64([len(scores)]),
    }
    return graph(text, constants)


def _boxes() -> Iterator[Arrays]:
    for _ in range(2):
        yield {"images": np.float32([[[0, 0, 10, 10], [40, 40, 60, 60], [80, 80, 90, 90]]])}


def test_a_detector_is_judged_by_the_detections_found_again() -> None:
    task = Postprocess("detection", num_classes=2, score_threshold=0.05)
    found = accuracy_of(_detector([0.9, 0.8]), _boxes, task)
    assert (found.name, found.of, found.baseline) == ("matched_detections", 4, 1.0)
    assert found.score(_detector([0.9, 0.8])) == 1.0
    assert found.score(_detector([0.88, 0.79], shift=2.0)) == 1.0
    assert found.score(_detector([0.9])) == 0.5  # one is missing
    assert found.score(_detector([0.9, 0.8, 0.7])) == 0.5  # one is new
    # Moved by half its width the small box overlaps by a third, the large one by 0.6.
    assert found.score(_detector([0.9, 0.8], shift=5.0)) == 0.0
    assert found.score(_detector([0.9, 0.8], shift=500.0)) == 0.0


def test_two_detectors_that_find_nothing_agree() -> None:
    task = Postprocess("detection", num_classes=2, score_threshold=0.05)
    found = accuracy_of(_detector([]), _boxes, task)
    assert (found.of, found.score(_detector([]))) == (0, 1.0)
    assert found.score(_detector([0.9])) == 0.0


@pytest.mark.parametrize(
    ("shape", "last"),
    [("N", "y = ReduceSum<keepdims=0>(z, axis)"), ("N,1", "y = ReduceSum<keepdims=1>(z, axis)")],
)
def test_a_network_without_classes_is_judged_by_its_numbers(shape: str, last: str) -> None:
    """Of one column the largest is always the first, so no share of equal answers could fall."""

    def regressor(factor: float) -> onnx.ModelProto:
        text = f"(float[N,4] x) => (float[{shape}] y) {{ z = Mul(x, f) {last} }}"
        return graph(text, {"f": np.float32(factor), "axis": np.int64([1])})

    found = accuracy_of(regressor(1.0), _batches, None, labels=[0] * 6)
    assert (found.name, found.of, found.baseline) == ("closeness", 6, 1.0)
    assert found.score(regressor(1.0)) == 1.0
    assert found.score(regressor(0.9)) == pytest.approx(0.9)
    assert found.score(regressor(-1.0)) == 0.0
