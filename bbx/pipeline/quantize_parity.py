"""Does a graph in eight bits compute what its FP32 graph computes? On images that no range came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import onnx

from bbx.artifact import Manifest
from bbx.calibration.agreement import EIGHT_BIT_TOLERANCE, excused, tolerance_of
from bbx.calibration.data.dataset import CalibrationSet
from bbx.calibration.judged import Judge
from bbx.exporter import verify
from bbx.exporter.judging import judge
from bbx.pipeline.quantize_step import QuantizeStep
from bbx.pipeline.typed_parity import task_of
from bbx.runners.ort import OrtRunner
from bbx.types import TensorSpec


def quantised_parity(
    step: QuantizeStep, staged: Path, heads: Judge, data: CalibrationSet, parent: Manifest | None
) -> verify.Parity:
    """The verdict on a quantised graph, every Q/DQ node computed as it is written.

    Where detections prove nothing, as those of random weights do, a detector is judged by its heads.

    Args:
        staged: the file it stands in.
        heads: compares graphs with the FP32 graph, tensor by tensor.
    """
    postprocess = parent.postprocess if parent else None
    untrained = parent is not None and parent.weights == "random"
    with OrtRunner(step.source) as reference:
        cases = list(_cases(reference.inputs, data))
        references = verify.reference_outputs(cases, reference.infer)
    with OrtRunner(staged, exact=True) as candidate:
        parity = judge(
            cases,
            references,
            candidate.infer,
            step.precision,
            postprocess,
            against=f"{step.source.name} (fp32)",
            random_weights=untrained,
            tolerance=tolerance_of(step.precision, postprocess),
        )
    if parity.verdict == "inconclusive" and task_of(parent) == "detection":
        found = heads.parity(
            onnx.load(str(staged)), EIGHT_BIT_TOLERANCE, against=f"the heads of {parity.against}"
        )
        parity = replace(found, cases=(*parity.cases, *found.cases))
    return excused(parity, random_weights=untrained, noise=data.record.random)


def _cases(inputs: tuple[TensorSpec, ...], data: CalibrationSet) -> Iterable[verify.Case]:
    """Held-out images, in two batches and one alone where the batch is dynamic.

    No others: the scales are for images like these, and a network of digits answers nothing to a photograph.
    """
    single = all(spec.shape and spec.shape[0] is None for spec in inputs)
    for number, batch in enumerate(islice(data.batches(split="held_out"), 2)):
        rows = next((len(array) for array in batch.values() if array.ndim), 1)
        if single and number == 0 and rows > 1:
            yield verify.Case(1, "held-out images", {name: array[:1] for name, array in batch.items()})
        yield verify.Case(rows, "held-out images", batch)
