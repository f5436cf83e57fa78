"""Does a graph in eight bits compute what its FP32 graph computes? On images that no range came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from bbx.artifact import Manifest
from bbx.calibration.agreement import EIGHT_BIT_TOLERANCE, excused, tolerance_of
from bbx.calibration.data.dataset import CalibrationSet
from bbx.calibration.judged import Judge
from bbx.exporter import verify
from bbx.exporter.judging import judge
from bbx.pipeline.held_out import held_out_cases
from bbx.pipeline.quantize_step import QuantizeStep
from bbx.pipeline.typed_parity import task_of
from bbx.runners.ort import OrtRunner


def quantised_parity(
    step: QuantizeStep, staged: Path, heads: Judge, data: CalibrationSet, parent: Manifest | None
) -> verify.Parity:
    """The verdict on a quantised graph, every Q/DQ node computed as it is written.

    No other images are taken: the scales are for images like these, and a network of digits answers nothing
    to a photograph. Where detections prove nothing, as those of random weights do, a detector is judged by
    its heads.

    Args:
        staged: the file it stands in.
        heads: compares graphs with the FP32 graph, tensor by tensor.
    """
    postprocess = parent.postprocess if parent else None
    untrained = parent is not None and parent.weights == "random"
    with OrtRunner(step.source) as reference:
        cases = held_out_cases(data, reference.inputs)
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
