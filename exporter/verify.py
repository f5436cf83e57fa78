"""Parity: does the artefact compute what the module computes, on photographs and on noise?

The reference runs first, on every case, before the artefact is looked at. A reference that is constant,
all zero, not finite, or the same whatever goes in proves nothing about a network, and its verdict is
`inconclusive`, never `pass`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bbx.errors import CheckFailed
from bbx.types import ParityVerdict, Precision

Arrays = Mapping[str, NDArray[Any]]
Infer = Callable[[Arrays], Arrays]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an output may be from its reference.

    Attributes:
        rel_l2: largest ‖candidate - reference‖₂ / ‖reference‖₂ over all elements of an output.
        cosine: smallest cosine between the two, as vectors.
        agreement: smallest share of equal elements of an output of integers, such as the labels of pixels.
    """

    rel_l2: float
    cosine: float
    agreement: float = 0.999


EXAMPLE_BATCH = 2
"""Rows of the example input of a dynamic batch: `torch.export` would bake a batch of 1 in."""

TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(rel_l2=1e-4, cosine=0.9999),
    "fp16": Tolerance(rel_l2=4e-2, cosine=0.999, agreement=0.98),
    "bf16": Tolerance(rel_l2=3e-1, cosine=0.95, agreement=0.9),
}
"""Per precision of the candidate. FP16 keeps 11 significant bits and BF16 8, so BF16's tolerance is 8 times
FP16's; FP16's is twice the largest distance seen on nine architectures with random weights (inception_v3,
2.1e-2), which are harder than trained ones. The cosine follows from it: 1 - rel_l2² / 2."""


@dataclass(frozen=True, slots=True)
class Case:
    """One set of inputs: `batch` rows of `input` (`photographs` or `noise`)."""

    batch: int
    input: str
    feeds: Arrays


@dataclass(frozen=True, slots=True)
class Distance:
    """How far one output is from its reference, in float64.

    Attributes:
        max_abs: largest absolute difference of an element.
        rel_l2: see `Tolerance`; infinite where the candidate is not finite or of another shape.
        cosine: see `Tolerance`; zero in the same cases.
    """

    max_abs: float
    rel_l2: float
    cosine: float

    def within(self, tolerance: Tolerance) -> bool:
        """Whether the distance is one that the tolerance allows."""
        return self.rel_l2 <= tolerance.rel_l2 and self.cosine >= tolerance.cosine


@dataclass(frozen=True, slots=True)
class LabelDistance(Distance):
    """How far labels are from others, as vectors with a one at each label.

    The cosine is then the share of labels that agree.
    """

    def within(self, tolerance: Tolerance) -> bool:
        """Whether enough labels agree."""
        return self.cosine >= tolerance.agreement


FAR = Distance(max_abs=float("inf"), rel_l2=float("inf"), cosine=0.0)
"""The distance of a candidate that cannot be compared at all."""


def distance(reference: NDArray[Any], candidate: NDArray[Any]) -> Distance:
    """Distance of one output from its reference; `FAR` where shapes differ or a value is not finite."""
    if reference.shape != candidate.shape:
        return FAR
    if reference.dtype.kind in "iu":
        return _label_distance(reference, candidate)
    want = np.asarray(reference, dtype=np.float64).ravel()
    got = np.asarray(candidate, dtype=np.float64).ravel()
    if not np.isfinite(got).all() or not np.isfinite(want).all():
        return FAR
    if np.array_equal(want, got):
        return Distance(0.0, 0.0, 1.0)
    difference = got - want
    norm_want, norm_got = float(np.linalg.norm(want)), float(np.linalg.norm(got))
    if norm_want == 0.0 or norm_got == 0.0:
        return Distance(float(np.abs(difference).max()), float("inf"), 0.0)
    return Distance(
        max_abs=float(np.abs(difference).max()),
        rel_l2=float(np.linalg.norm(difference)) / norm_want,
        cosine=min(1.0, float(want @ got) / (norm_want * norm_got)),
    )


def _label_distance(reference: NDArray[Any], candidate: NDArray[Any]) -> Distance:
    if candidate.dtype.kind not in "iu" or not reference.size:
        return FAR if reference.size else LabelDistance(0.0, 0.0, 1.0)
    apart = np.abs(candidate.astype(np.int64) - reference.astype(np.int64))
    differing = float(np.count_nonzero(apart)) / reference.size
    return LabelDistance(float(apart.max()), float(np.sqrt(2 * differing)), 1.0 - differing)


@dataclass(frozen=True, slots=True)
class Parity:
    """What a comparison over all cases found.

    Attributes:
        verdict: `inconclusive` when a reference proves nothing, else `fail` when any output of any case
            is too far, else `pass`.
        reasons: for any verdict but `pass`, one line for each finding, worst first.
        cases: per case: batch, input, and the distance of each output.
    """

    verdict: ParityVerdict
    reasons: tuple[str, ...]
    tolerance: Tolerance
    cases: tuple[dict[str, Any], ...]
    against: str

    def to_json(self) -> dict[str, Any]:
        """As the JSON contract shows it; a distance that is infinite is null."""
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "against": self.against,
            "tolerance": asdict(self.tolerance),
            "cases": [_finite_json(case) for case in self.cases],
        }


def _finite_json(case: dict[str, Any]) -> dict[str, Any]:
    outputs = {
        name: {key: value if np.isfinite(value) else None for key, value in asdict(found).items()}
        for name, found in case["outputs"].items()
    }
    return {**case, "outputs": outputs}


def proves_nothing(references: Sequence[Arrays]) -> tuple[str, ...]:
    """Why these reference outputs, one mapping a case, are no evidence; empty when they are."""
    reasons = []
    for name in references[0]:
        values = [np.asarray(outputs[name]) for outputs in references]
        if not all(np.isfinite(value).all() for value in values if value.dtype.kind == "f"):
            reasons.append(f"The reference's output {name!r} is not finite.")
        elif _is_constant(values):
            what = "all zero" if not any(value.any() for value in values) else "constant"
            reasons.append(f"The reference's output {name!r} is {what}, so agreeing with it proves nothing.")
        elif _ignores_input(values):
            reasons.append(f"The reference's output {name!r} is the same whatever goes in.")
    return tuple(reasons)


def _is_constant(values: Sequence[NDArray[Any]]) -> bool:
    """Whether all elements of all cases are one number; also where there is no element at all."""
    found = [value.ravel() for value in values if value.size]
    return all((value == found[0][0]).all() for value in found)


def _ignores_input(values: Sequence[NDArray[Any]]) -> bool:
    """Whether two inputs' answers could be exchanged and FP32's tolerance would not see it."""
    rows = [row.ravel() for value in values if value.ndim > 1 for row in value]
    comparable = [row for row in rows if row.shape == rows[0].shape]
    return len(comparable) > 1 and all(
        distance(comparable[0], row).within(TOLERANCES["fp32"]) for row in comparable[1:]
    )


def compare(
    cases: Sequence[Case],
    references: Sequence[Arrays],
    infer: Infer,
    tolerance: Tolerance,
    *,
    against: str,
) -> Parity:
    """Run the candidate on every case and judge it against the references.

    Args:
        cases: the inputs.
        references: the reference's outputs, one mapping a case.
        infer: the candidate.
        against: what the reference is, for the report.
    """
    rows: list[dict[str, Any]] = []
    too_far: list[tuple[float, str]] = []
    for case, reference in zip(cases, references, strict=True):
        outputs = infer(case.feeds)
        distances = {name: distance(want, outputs[name]) for name, want in reference.items()}
        rows.append({"batch": case.batch, "input": case.input, "outputs": distances})
        too_far += [
            (found.rel_l2, _finding(name, case, found, tolerance))
            for name, found in distances.items()
            if not found.within(tolerance)
        ]
    nothing = proves_nothing(references)
    findings = [text for _, text in sorted(too_far, key=lambda pair: -pair[0])]
    verdict: ParityVerdict = "inconclusive" if nothing else "fail" if findings else "pass"
    return Parity(verdict, (*nothing, *findings), tolerance, tuple(rows), against)


def _finding(name: str, case: Case, found: Distance, tolerance: Tolerance) -> str:
    where = f"Output {name!r} on {case.input} at batch {case.batch}: "
    if isinstance(found, LabelDistance):
        return f"{where}{found.cosine:.4%} of the labels agree (at least {tolerance.agreement:.1%})."
    return (
        f"{where}relative L2 {found.rel_l2:.2e} (at most {tolerance.rel_l2:.0e}), "
        f"cosine {found.cosine:.6f} (at least {tolerance.cosine})."
    )


def require_parity(parity: Parity, subject: str, document: dict[str, Any], *, hint: str = "") -> None:
    """Raise when the verdict is `fail`.

    Args:
        subject: what was compared, for the message.
        document: the command's document, which the error carries.
        hint: what to type then.

    Raises:
        CheckFailed: names the output, the input and the distance.
    """
    if parity.verdict == "fail":
        raise CheckFailed(
            f"{subject} does not agree with {parity.against}. {parity.reasons[0]}",
            hint=hint,
            document=document,
        )


def batches_to_try(export_batch: int, *, fixed: bool) -> tuple[int, ...]:
    """Batch 1, the batch exported with, and another one; just the one batch when it is fixed."""
    if fixed:
        return (export_batch,)
    return tuple(dict.fromkeys((1, export_batch, 3 if export_batch != 3 else 4)))


def reference_outputs(cases: Iterable[Case], infer: Infer) -> list[dict[str, NDArray[Any]]]:
    """The reference's outputs on every case, in arrays of their own."""
    return [{name: np.array(value) for name, value in infer(case.feeds).items()} for case in cases]
