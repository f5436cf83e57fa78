"""Pairing detections and judging them, on literal numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bbx.exporter import judging, verify
from bbx.exporter.detections import CLOSE, DETECTION_TOLERANCES, compare_detections, judge
from bbx.exporter.matching import DetectionDistance, malformed, match, pooled
from bbx.models.detection.candidates import NO_LABEL
from bbx.types import Postprocess, Precision

STRICT = DETECTION_TOLERANCES["fp32"]
ROOM = 6

CAT = ([10, 10, 110, 60], 0.9, 3)
DOG = ([200, 50, 260, 170], 0.8, 7)
HEN = ([30, 200, 90, 240], 0.7, 3)


def outputs(*images: list[tuple[list[float], float, int]], room: int = ROOM) -> dict[str, Any]:
    """Padded outputs of a batch, from what is found on each image."""
    count = len(images)
    made = {
        "boxes": np.zeros((count, room, 4), np.float32),
        "scores": np.zeros((count, room), np.float32),
        "labels": np.full((count, room), -1, np.int64),
        "num_detections": np.array([len(image) for image in images], np.int64),
    }
    for row, image in enumerate(images):
        for column, (box, score, label) in enumerate(image):
            made["boxes"][row, column] = box
            made["scores"][row, column] = score
            made["labels"][row, column] = label
    return made


def counts(distance: DetectionDistance) -> tuple[int, int, int, int]:
    return distance.matched, distance.missing, distance.extra, distance.borderline


REFERENCE = outputs([CAT, DOG, HEN], [DOG])


LESSER = ([10, 10, 60, 60], 0.6, 3)
"""Overlaps CAT by 0.5."""


@pytest.mark.parametrize(
    ("lone", "expected"),
    [
        (LESSER, (1, 0, 0, 1)),
        (([10, 10, 60.04, 60], 0.6, 3), (1, 0, 0, 1)),
        (([10, 10, 61, 60], 0.6, 3), (1, 1, 0, 0)),  # overlaps by 0.51
        (([10, 10, 60, 60], 0.6, 4), (1, 1, 0, 0)),  # is something else
        (([10, 10, 60, 60], 0.95, 3), (1, 1, 0, 0)),  # is the better of the two
    ],
)
def test_what_a_rounding_suppresses_is_borderline(lone: Any, expected: tuple[int, int, int, int]) -> None:
    both = [CAT, lone] if lone[1] < CAT[1] else [lone, CAT]
    matched, missing, _, borderline = expected
    assert counts(match(outputs(both), outputs([CAT]), suppression=0.5).distance) == expected
    found = match(outputs([CAT]), outputs(both), suppression=0.5)
    assert counts(found.distance) == (matched, 0, missing, borderline)
    # Where nobody says at which overlap boxes are suppressed, it is missing.
    assert counts(match(outputs(both), outputs([CAT])).distance) == (1, 1, 0, 0)


# --- pairing ----------------------------------------------------------------------------------------


def test_equal_detections_match_row_by_row() -> None:
    matching = match(REFERENCE, REFERENCE)
    assert matching.distance == DetectionDistance(
        reference=4, candidate=4, matched=4, worst_iou=1.0, worst_score=0.0
    )
    assert matching.pairs.tolist() == [[0, 0, 0], [0, 1, 1], [0, 2, 2], [1, 0, 0]]


def test_rows_of_equal_score_match_in_any_order() -> None:
    first, second = (CAT[0], 0.5, 3), (HEN[0], 0.5, 3)
    matching = match(outputs([first, second]), outputs([second, first]))
    assert counts(matching.distance) == (2, 0, 0, 0)
    assert matching.pairs.tolist() == [[0, 0, 1], [0, 1, 0]]


def test_a_swapped_label_is_no_match() -> None:
    candidate = outputs([CAT, (DOG[0], DOG[1], 8), HEN], [DOG])
    assert counts(match(REFERENCE, candidate).distance) == (3, 1, 1, 0)


def test_a_detection_of_another_image_is_no_match() -> None:
    assert counts(match(outputs([CAT], [DOG]), outputs([DOG], [CAT])).distance) == (0, 2, 2, 0)


@pytest.mark.parametrize(("shift", "matches"), [(0.4, True), (1.0, False)])
def test_a_box_moved_by_one_percent_of_its_width_is_too_far(shift: float, matches: bool) -> None:
    x1, y1, x2, y2 = CAT[0]
    moved = ([x1 + shift, y1, x2 + shift, y2], CAT[1], CAT[2])
    distance = match(outputs([CAT]), outputs([moved])).distance
    assert counts(distance) == ((1, 0, 0, 0) if matches else (0, 1, 1, 0))
    assert distance.worst_iou == pytest.approx((100 - shift) / (100 + shift))


@pytest.mark.parametrize(("score", "matches"), [(0.9009, True), (0.8991, True), (0.8985, False)])
def test_a_score_that_differs_too_much_is_no_match(score: float, matches: bool) -> None:
    distance = match(outputs([CAT]), outputs([(CAT[0], score, CAT[2])])).distance
    assert counts(distance) == ((1, 0, 0, 0) if matches else (0, 1, 1, 0))
    assert distance.worst_score == pytest.approx(abs(0.9 - score), abs=1e-6)


def test_a_duplicate_is_extra() -> None:
    candidate = outputs([CAT, CAT, DOG, HEN], [DOG])
    assert counts(match(REFERENCE, candidate).distance) == (4, 0, 1, 0)


def test_one_row_is_no_partner_of_two() -> None:
    twice = outputs([CAT, CAT])
    assert counts(match(twice, outputs([CAT])).distance) == (1, 1, 0, 0)


def test_the_partner_within_the_tolerance_wins_over_the_one_that_overlaps_more() -> None:
    x1, y1, x2, y2 = CAT[0]
    near = ([x1 + 0.2, y1, x2 + 0.2, y2], 0.9, 3)
    unlikely = (CAT[0], 0.4, 3)
    matching = match(outputs([CAT]), outputs([near, unlikely]))
    assert matching.pairs.tolist() == [[0, 0, 0]]
    assert counts(matching.distance) == (1, 0, 1, 0)


def test_a_sliver_at_the_border_matches_itself_up_to_rounding() -> None:
    sliver, rounded = ([300, 10, 300, 50], 0.5, 1), ([300, 10, 300.0002, 50], 0.5, 1)
    assert counts(match(outputs([sliver]), outputs([rounded])).distance) == (1, 0, 0, 0)
    wide = ([300, 10, 301, 50], 0.5, 1)
    assert counts(match(outputs([sliver]), outputs([wide])).distance) == (0, 1, 1, 0)


@pytest.mark.parametrize(("end", "matches"), [(209.985, True), (210.015, True), (210.03, False)])
def test_what_the_border_cut_to_nothing_matches_to_a_share_of_its_length(end: float, matches: bool) -> None:
    """As a RetinaNet gives it: of a box 200 pixels high, whose height is decoded, only a line is left."""
    line, rounded = ([300, 10, 300, 210], 0.5, 1), ([300, 10, 300, end], 0.5, 1)
    distance = match(outputs([line]), outputs([rounded])).distance
    assert counts(distance) == ((1, 0, 0, 0) if matches else (0, 1, 1, 0))


def test_nothing_found_on_either_side() -> None:
    matching = match(outputs([], []), outputs([], []))
    assert matching.distance == DetectionDistance(reference=0)
    assert matching.pairs.shape == (0, 3)


def test_nothing_found_on_one_side() -> None:
    assert counts(match(REFERENCE, outputs([], [])).distance) == (0, 4, 0, 0)
    assert counts(match(outputs([], []), REFERENCE).distance) == (0, 0, 4, 0)


# --- borderline -------------------------------------------------------------------------------------


def test_at_the_threshold_either_side_may_drop_a_box() -> None:
    faint = (HEN[0], 0.0504, 3)
    more, less = outputs([CAT, faint]), outputs([CAT])
    assert counts(match(more, less, threshold=0.05).distance) == (1, 0, 0, 1)
    assert counts(match(less, more, threshold=0.05).distance) == (1, 0, 0, 1)


def test_above_the_threshold_or_without_one_it_may_not() -> None:
    clear, faint = (HEN[0], 0.052, 3), (HEN[0], 0.0504, 3)
    assert counts(match(outputs([CAT, clear]), outputs([CAT]), threshold=0.05).distance) == (1, 1, 0, 0)
    assert counts(match(outputs([CAT, faint]), outputs([CAT])).distance) == (1, 1, 0, 0)


def test_a_box_at_the_threshold_that_moved_is_not_excused() -> None:
    faint, moved = ([0, 0, 100, 100], 0.0504, 3), ([10, 0, 110, 100], 0.0504, 3)
    assert counts(match(outputs([faint]), outputs([moved]), threshold=0.05).distance) == (0, 1, 1, 0)


def test_the_last_place_of_a_full_list_may_go_to_another_box() -> None:
    last, other = (HEN[0], 0.3, 3), ([0, 0, 9, 9], 0.3004, 1)
    distance = match(outputs([CAT, last], room=2), outputs([CAT, other], room=2)).distance
    assert counts(distance) == (1, 0, 0, 2)


def test_a_better_box_may_not_be_missing_from_a_full_list() -> None:
    last, other = (HEN[0], 0.3, 3), ([0, 0, 9, 9], 0.3004, 1)
    distance = match(outputs([CAT, DOG], room=2), outputs([CAT, last], room=2)).distance
    assert counts(distance) == (1, 1, 0, 1)
    assert counts(match(outputs([CAT, last]), outputs([CAT, other])).distance) == (1, 1, 1, 0)


# --- outputs that are not detections ----------------------------------------------------------------


def _changed(name: str, where: Any, value: Any) -> dict[str, Any]:
    changed = {key: array.copy() for key, array in REFERENCE.items()}
    changed[name][where] = value
    return changed


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (_changed("boxes", (0, 1, 2), np.nan), "'boxes' is not finite"),
        (_changed("scores", (1, 5), np.inf), "'scores' is not finite"),
        (_changed("num_detections", 0, 7), "there are 6 rows"),
        (_changed("num_detections", 1, -1), "there are 6 rows"),
        (_changed("num_detections", 0, 4), "A row within num_detections has the label -1."),
        (_changed("num_detections", 0, 2), "A row beyond num_detections has a label other than -1."),
        (_changed("labels", (1, 3), 0), "A row beyond num_detections has a label other than -1."),
        (
            _changed("scores", (1, 1), 0.1),
            "A row beyond num_detections has a score or a box other than zero.",
        ),
        (_changed("boxes", (1, 1), 4), "A row beyond num_detections has a score or a box other than zero."),
        (_changed("scores", (0, 1), 0.1), "The scores do not fall."),
        ({**REFERENCE, "scores": REFERENCE["scores"][:, :5]}, "'scores' has the shape [2, 5], not [2, 6]"),
        ({**REFERENCE, "scores": REFERENCE["scores"][0]}, "not [images, detections]"),
        ({"boxes": REFERENCE["boxes"], "scores": REFERENCE["scores"]}, "There is no output 'labels'."),
    ],
)
def test_a_malformed_candidate_fails_with_the_reason(candidate: dict[str, Any], said: str) -> None:
    matching = match(REFERENCE, candidate)
    assert any(said in text for text in matching.distance.malformed), matching.distance.malformed
    assert counts(matching.distance) == (0, 4, 0, 0)
    assert len(matching.pairs) == 0
    verdict, reasons = judge([matching.distance], STRICT)
    assert (verdict, reasons) == ("fail", matching.distance.malformed)


def test_well_formed_outputs_have_no_fault() -> None:
    assert malformed(REFERENCE) == ()
    assert malformed(outputs([], [])) == ()
    assert malformed(outputs([CAT, DOG], room=2)) == ()


def test_the_padding_is_the_one_that_detectors_write() -> None:
    assert set(REFERENCE["labels"][1, 1:]) == {NO_LABEL}


# --- verdicts ---------------------------------------------------------------------------------------


def _distance(matched: int, missing: int = 0, extra: int = 0, borderline: int = 0) -> DetectionDistance:
    total = matched + missing + borderline
    return DetectionDistance(total, matched + extra, matched, missing, extra, borderline, 0.995, 1e-4)


@pytest.mark.parametrize(
    ("distance", "verdict"),
    [
        (_distance(1000), "pass"),
        (_distance(999, missing=1, extra=1), "pass"),
        (_distance(998, missing=2), "fail"),
        (_distance(1000, extra=2), "fail"),
        (_distance(10, borderline=5), "pass"),
        (_distance(0, borderline=5), "inconclusive"),
        (_distance(0, missing=1), "fail"),
        (_distance(0), "inconclusive"),
    ],
)
def test_the_verdict_in_fp32(distance: DetectionDistance, verdict: str) -> None:
    found, reasons = judge([distance], STRICT)
    assert found == verdict
    assert bool(reasons) == (verdict != "pass")


def test_all_batches_are_judged_together() -> None:
    small = _distance(9, missing=1)
    assert judge([small], STRICT)[0] == "fail"
    assert judge([small, _distance(990)], STRICT)[0] == "pass"
    assert pooled([small, _distance(990)]).reference == 1000


def test_the_reason_says_how_many_and_how_far() -> None:
    [reason] = judge([match(REFERENCE, outputs([CAT, DOG], [DOG])).distance], STRICT)[1]
    assert "3 of 4 detections are matched (at least 99.9%) and 0 are extra (at most 0.1%)" in reason
    assert "IoU falls to 1.0000 (at least 0.99)" in reason


def test_half_precision_is_allowed_more_than_full() -> None:
    full, half, brain = (DETECTION_TOLERANCES[name] for name in ("fp32", "fp16", "bf16"))
    assert full.iou > half.iou > brain.iou
    assert full.score < half.score < brain.score
    assert full.matched > half.matched > brain.matched


# --- over cases, with masks -------------------------------------------------------------------------

CASES = [
    verify.Case(1, "photographs", {"images": np.zeros(1)}),
    verify.Case(2, "noise", {"images": np.ones(2)}),
]


def _with_masks(found: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """A mask for each detection that depends on its score alone, and on `seed`."""
    masks = np.zeros((*found["scores"].shape, 4, 4), np.float32)
    for image, row in np.argwhere(found["labels"] >= 0):
        known = int(found["scores"][image, row] * 1e4) + seed
        masks[image, row] = np.random.default_rng(known).random((4, 4))
    return {**found, "masks": masks, "saturated": np.zeros(len(masks), bool)}


REFERENCES = [_with_masks(outputs([CAT, DOG])), _with_masks(outputs([HEN, (DOG[0], 0.7, 7)], [CAT]))]


def _compare(candidates: list[dict[str, Any]], references: list[Any] = REFERENCES) -> verify.Parity:
    answers = iter(candidates)
    return compare_detections(CASES, references, lambda _feeds: next(answers), STRICT, against="torch")


def test_the_same_things_in_another_order_pass_with_their_masks() -> None:
    swapped = _with_masks(outputs([(DOG[0], 0.7, 7), HEN], [CAT]))
    masks = swapped["masks"].copy()
    masks[0, [0, 1]] = REFERENCES[1]["masks"][0, [1, 0]]
    parity = _compare([REFERENCES[0], {**swapped, "masks": masks}])
    assert (parity.verdict, parity.reasons) == ("pass", ())
    shown = json.loads(json.dumps(parity.to_json()))
    assert [case["detections"]["matched"] for case in shown["cases"]] == [2, 3]
    assert set(shown["cases"][0]["outputs"]) == set(REFERENCES[0])
    for case in shown["cases"]:
        assert case["outputs"]["boxes"] == {"max_abs": 0.0, "rel_l2": 0.0, "cosine": 1.0}
        assert case["outputs"]["masks"] == {"max_abs": 0.0, "rel_l2": 0.0, "cosine": 1.0}
    assert shown["tolerance"]["iou"] == STRICT.iou


def test_other_masks_on_the_same_boxes_fail() -> None:
    parity = _compare([_with_masks(outputs([CAT, DOG]), seed=1), REFERENCES[1]])
    assert parity.verdict == "fail"
    [reason] = parity.reasons
    assert "Output 'masks' on photographs at batch 1" in reason


def test_a_missing_detection_fails() -> None:
    parity = _compare([REFERENCES[0], _with_masks(outputs([HEN], [CAT]))])
    assert parity.verdict == "fail"
    assert "4 of 5 detections are matched" in parity.reasons[0]
    with pytest.raises(verify.CheckFailed, match="4 of 5 detections"):
        verify.require_parity(parity, "net.onnx", {})


def test_a_malformed_answer_fails_and_is_infinitely_far() -> None:
    broken = {**REFERENCES[0], "boxes": REFERENCES[0]["boxes"] * np.float32("nan")}
    parity = _compare([broken, REFERENCES[1]])
    assert parity.verdict == "fail"
    assert "'boxes' is not finite" in parity.reasons[0]
    shown = parity.to_json()["cases"][0]
    assert shown["outputs"]["boxes"] == {"max_abs": None, "rel_l2": None, "cosine": 0.0}
    assert shown["detections"]["malformed"]


def test_an_answer_without_an_output_fails() -> None:
    without = {name: value for name, value in REFERENCES[0].items() if name != "masks"}
    parity = _compare([without, REFERENCES[1]])
    assert (parity.verdict, parity.reasons[0]) == ("fail", "There is no output 'masks'.")


@pytest.mark.parametrize(
    ("references", "said"),
    [
        ([outputs([]), outputs([], [])], "found nothing"),
        ([outputs([CAT]), outputs([CAT], [CAT])], "whatever goes in"),
        ([outputs([CAT]), {**outputs([CAT], [DOG]), "scores": np.full((2, ROOM), np.nan)}], "not finite"),
    ],
)
def test_references_that_prove_nothing(references: list[dict[str, Any]], said: str) -> None:
    parity = _compare(references, references)
    assert parity.verdict == "inconclusive"
    assert any(said in reason for reason in parity.reasons), parity.reasons
    verify.require_parity(parity, "net.onnx", {})


@pytest.mark.parametrize(("count", "verdict"), [(99, "fail"), (100, "pass")])
def test_among_many_detections_one_may_be_decided_by_rounding(count: int, verdict: str) -> None:
    distance = DetectionDistance(reference=count, candidate=count + 1, matched=count, extra=1)
    assert judge([distance], DETECTION_TOLERANCES["fp32"])[0] == verdict
    two = DetectionDistance(reference=count, candidate=count + 2, matched=count, extra=2)
    assert judge([two], DETECTION_TOLERANCES["fp32"])[0] == "fail"


# --- random weights ---------------------------------------------------------------------------------

GRID = [
    ([5.0 * x, 5.0 * y, 5.0 * x + 4, 5.0 * y + 4], 0.9 - 0.002 * (x + 20 * y), 1)
    for y in range(10)
    for x in range(20)
]
"""200 boxes, none of which overlaps another, the surest first."""


def _judged(
    precision: Precision, lacking: int, *, random_weights: bool, masks: float = 1.0, room: int = 200
) -> verify.Parity:
    """A graph that finds fewer boxes of the grid, with masks that are so many times as large."""

    def found(boxes: list[Any], mask: float) -> dict[str, Any]:
        made = outputs(boxes, room=room)
        return made | {"masks": np.full((1, room, 2, 2), mask, np.float32)}

    case = verify.Case(1, "photographs", {})
    return judging.judge(
        [case],
        [found(GRID, 1.0)],
        lambda _: found(GRID[lacking:], masks),
        precision,
        Postprocess(task="detection", score_threshold=0.05, iou_threshold=0.5),
        against="torch",
        random_weights=random_weights,
    )


@pytest.mark.parametrize(
    ("precision", "lacking", "random_weights", "verdict"),
    [
        ("fp32", 1, True, "pass"),
        ("fp32", 2, True, "inconclusive"),
        ("fp32", 4, True, "inconclusive"),
        ("fp32", 5, True, "fail"),
        ("fp32", 2, False, "fail"),
        ("fp16", 100, True, "inconclusive"),
        ("fp16", 100, False, "fail"),
    ],
)
def test_random_weights_excuse_in_fp32_a_box_in_fifty(
    precision: Precision, lacking: int, *, random_weights: bool, verdict: str
) -> None:
    parity = _judged(precision, lacking, random_weights=random_weights)
    assert parity.verdict == verdict
    assert (verdict == "inconclusive") == any(reason.startswith(CLOSE) for reason in parity.reasons)


def test_random_weights_excuse_no_other_masks_in_fp32() -> None:
    assert _judged("fp32", 2, random_weights=True, masks=1.1).verdict == "fail"


def test_random_weights_excuse_nothing_that_is_malformed() -> None:
    reference = outputs(GRID, room=200)
    odd = reference | {"num_detections": np.array([201], np.int64)}
    parity = judging.judge(
        [verify.Case(1, "photographs", {})],
        [reference],
        lambda _: odd,
        "fp32",
        Postprocess(task="detection", score_threshold=0.05),
        against="torch",
        random_weights=True,
    )
    assert parity.verdict == "fail"
