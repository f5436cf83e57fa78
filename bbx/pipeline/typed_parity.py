"""Does a graph in 16 bits compute what its FP32 graph computes? By its outputs, else by its heads.

Of a quantised graph the source is its Q/DQ graph. Where nobody trained the network, a distance is excused
only as far as `bbx.pipeline.rounding_control` finds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

import onnx

from bbx import process
from bbx.artifact import Manifest
from bbx.calibration.agreement import comparable, excused, tolerance_of
from bbx.exporter import verify
from bbx.exporter.control import stirred
from bbx.exporter.emulate import emulated_from_typed
from bbx.exporter.heads import unsorted_heads
from bbx.exporter.judging import judge
from bbx.exporter.onnx_io import spill_onnx
from bbx.exporter.to_typed import TypedGraph
from bbx.pipeline.rounding_control import STIRRED, answers, controlled
from bbx.pipeline.steps import TypedStep
from bbx.runners.ort import OrtRunner
from bbx.types import Task


def task_of(manifest: Manifest | None) -> Task:
    """What a graph's outputs mean; those of a graph without a manifest are taken for a classifier's."""
    return manifest.postprocess.task if manifest and manifest.postprocess else "classification"


def is_quantised(parent: Manifest | None) -> TypeGuard[Manifest]:
    """Whether a graph has Q/DQ nodes of bbx's own."""
    return parent is not None and parent.precision in ("int8", "fp8")


def by_noise(quantised: Manifest | None) -> bool:
    """Whether a graph was calibrated on noise."""
    return quantised is not None and bool(quantised.document.get("calibration", {}).get("random"))


@dataclass(frozen=True, slots=True)
class Judged:
    """A typed graph and what it is judged by.

    Attributes:
        typed: the graph in 16 bits.
        staged: the file it stands in.
        parent: manifest of the FP32 graph that it was made from.
        cases: the inputs.
        references: that graph's outputs, one mapping a case.
    """

    step: TypedStep
    typed: TypedGraph
    staged: Path
    parent: Manifest | None
    cases: Sequence[verify.Case]
    references: Sequence[verify.Arrays]

    def parity(self) -> verify.Parity:
        """Judge the typed graph by its emulation in FP32, which rounds to 16 bits after every node.

        No CPU runtime has BF16 kernels, and ONNX Runtime computes FP16 graphs in FP32 on a CPU and takes the
        casts between nodes out, so that it would see neither rounding nor overflow. That it loads them is
        seen.
        """
        if self.step.precision == "fp16":
            with OrtRunner(self.staged):
                process.progress("verify", detail="ONNX Runtime takes the FP16 graph")
        with tempfile.TemporaryDirectory(dir=self.staged.parent, prefix="emulation-") as folder:
            path = Path(folder) / self.staged.name
            spill_onnx(emulated_from_typed(self.typed.model), path)
            parity, source = self._of(path), None
            if task_of(self.parent) == "detection" and parity.verdict != "pass":
                if not _well_formed(parity):
                    return parity
                source = onnx.load(str(self.step.source))
                parity = self._by_heads(source, path, parity)
        if parity.verdict == "fail" and is_quantised(self.parent) and comparable(parity):
            return self._excused(source or onnx.load(str(self.step.source)), parity)
        return parity

    def _of(self, path: Path) -> verify.Parity:
        """The verdict on any graph with the outputs of the FP32 graph."""
        postprocess = self.parent.postprocess if self.parent else None
        quantised = self.parent if is_quantised(self.parent) else None
        with OrtRunner(path, exact=True) as runner:
            dtypes = {spec.name: spec.dtype for spec in runner.inputs}
            return judge(
                self.cases,
                self.references,
                lambda feeds: runner.infer({name: feed.astype(dtypes[name]) for name, feed in feeds.items()}),
                self.step.precision,
                postprocess,
                against=f"its {'Q/DQ' if quantised else 'FP32'} graph {self.step.source.name}",
                random_weights=self._untrained,
                # Where 16 bits fall on the other side of a rounding, an eight-bit value is another one.
                tolerance=tolerance_of(quantised.precision, postprocess) if quantised else None,
            )

    def _excused(self, source: onnx.ModelProto, parity: verify.Parity) -> verify.Parity:
        """The same failure, or `inconclusive` where it proves nothing: see this module.

        Args:
            source: the Q/DQ graph.
            parity: of the outputs, or of a detector's heads.
        """
        excuse = excused(parity, random_weights=self._untrained, noise=by_noise(self.parent))
        if excuse is parity:
            return parity
        cases = self._singles if task_of(self.parent) == "detection" else self.cases
        return controlled(parity, excuse, source, self.step.precision, cases)

    @property
    def _untrained(self) -> bool:
        return self.parent is not None and self.parent.weights == "random"

    @property
    def _singles(self) -> list[verify.Case]:
        """The cases of the first batch size."""
        return [case for case in self.cases if case.batch == self.cases[0].batch]

    def _by_heads(self, source: onnx.ModelProto, emulation: Path, detections: verify.Parity) -> verify.Parity:
        """What can be judged where detections cannot: a detector's heads, on the same images.

        Args:
            source: the FP32 graph, or the Q/DQ graph.
            emulation: the typed graph's.

        Returns:
            The verdict on the heads, where the detections prove nothing: the reference found none worth
            comparing, or noise of the heads' own distance changes as many in the FP32 graph itself. The
            distances of heads and controls stand beside those of the detections. Else `detections`.
        """
        heads = unsorted_heads(source)
        if not heads:
            return detections
        process.progress("verify", detail="the heads, before any box is chosen")
        found = self._heads(source, emulation, heads, detections.against)
        if detections.verdict != "fail":
            return replace(found, cases=(*detections.cases, *found.cases))
        if found.verdict != "pass":
            return detections
        amounts = {head: max(case["outputs"][head].rel_l2 for case in found.cases) for head in heads}
        controls = (self._control(source, amounts, seed) for seed in range(STIRRED))
        control = next((each for each in controls if _changed(each) >= _changed(detections)), None)
        if control is None:
            return detections
        return replace(found, cases=(*detections.cases, *found.cases, *control.cases))

    def _heads(
        self, source: onnx.ModelProto, emulation: Path, heads: tuple[str, ...], against: str
    ) -> verify.Parity:
        want, got = (answers(each, heads, self._singles) for each in (source, onnx.load(str(emulation))))
        turn = iter(got)
        tolerance = verify.TOLERANCES[self.step.precision]
        return verify.compare(
            self._singles, want, lambda _: next(turn), tolerance, against=f"the heads of {against}"
        )

    def _control(self, source: onnx.ModelProto, amounts: Mapping[str, float], seed: int) -> verify.Parity:
        """The FP32 graph against itself with noise in its heads."""
        process.progress("verify", detail="how many boxes as much noise changes")
        with tempfile.TemporaryDirectory(prefix="bbx-control-") as folder:
            path = Path(folder) / "control.onnx"
            spill_onnx(stirred(source, amounts, seed=seed), path)
            parity = self._of(path)
        cases = tuple(case | {"input": f"{case['input']}, noise in the heads"} for case in parity.cases)
        return replace(parity, cases=cases)


def _changed(parity: verify.Parity) -> int:
    """Detections that one side has and the other has not."""
    return sum(case["detections"]["missing"] + case["detections"]["extra"] for case in parity.cases)


def _well_formed(parity: verify.Parity) -> bool:
    return not any(case["detections"]["malformed"] for case in parity.cases)
