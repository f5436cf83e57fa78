"""Does a graph in 16 bits compute what its FP32 graph computes? By its outputs, else by its heads.

Of a quantised graph the source is its Q/DQ graph. Where nobody trained the network, values that 16 bits put
on the other side of a quantiser's rounding may change every answer. A distance is excused by that only if
noise of the size of such roundings carries the Q/DQ graph as far from itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

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
from bbx.exporter.parts import giving
from bbx.exporter.to_typed import TypedGraph
from bbx.pipeline.steps import TypedStep
from bbx.runners.ort import OrtRunner
from bbx.types import Task

_STIRRED = 3
"""Controls that are tried, each with other noise: how many boxes change is chance too."""

_ROUNDING = {"fp16": 2.0**-11, "bf16": 2.0**-8}
"""Unit roundoff. Over a tensor the relative error of one rounding is 0.4 of it in the root mean square, and a
value is rounded several times between two quantisers."""

_AS_FAR = 1.5
"""How much farther than the farthest control a graph may be. Networks with random weights were 0.9 to 1.1
times as far; docs/results/presets_int8.json has both distances of presets that needed the excuse."""


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
        own = [case["outputs"] for case in parity.cases if "detections" not in case]
        if excuse is parity or not own:
            return excuse
        process.progress("verify", detail="how far as much rounding carries the Q/DQ graph")
        cases = self._singles if task_of(self.parent) == "detection" else self.cases
        names, apart = tuple(own[0]), _farthest(own)
        amounts = dict.fromkeys(_quantised_tensors(source), _ROUNDING[self.step.precision])
        wanted = _answers(source, names, cases)
        control = 0.0
        for seed in range(_STIRRED):
            moved = _answers(stirred(source, amounts, seed=seed), names, cases)
            control = max(control, _farthest(_distances(wanted, moved)))
            if apart <= _AS_FAR * control:
                break
        as_far = apart <= _AS_FAR * control
        found = excuse if as_far else parity
        said = (
            f"Noise of the size of {self.step.precision.upper()} rounding carries the Q/DQ graph "
            f"from itself by a relative L2 of {'' if as_far else 'only '}{control:.2e}."
        )
        return replace(found, reasons=(f"{found.reasons[0]} {said}", *found.reasons[1:]))

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
        controls = (self._control(source, amounts, seed) for seed in range(_STIRRED))
        control = next((each for each in controls if _changed(each) >= _changed(detections)), None)
        if control is None:
            return detections
        return replace(found, cases=(*detections.cases, *found.cases, *control.cases))

    def _heads(
        self, source: onnx.ModelProto, emulation: Path, heads: tuple[str, ...], against: str
    ) -> verify.Parity:
        want, got = (_answers(each, heads, self._singles) for each in (source, onnx.load(str(emulation))))
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


def _quantised_tensors(source: onnx.ModelProto) -> list[str]:
    """What the nodes of a Q/DQ graph give to its quantisers, in the graph's order."""
    made = {name for node in source.graph.node for name in node.output}
    read = [node.input[0] for node in source.graph.node if node.op_type == "QuantizeLinear"]
    return [name for name in dict.fromkeys(read) if name in made]


def _answers(
    model: onnx.ModelProto, names: tuple[str, ...], cases: Sequence[verify.Case]
) -> list[dict[str, Any]]:
    """Some tensors of a graph on every case, numbers in float32."""
    with tempfile.TemporaryDirectory(prefix="bbx-heads-") as folder:
        path = Path(folder) / "graph.onnx"
        spill_onnx(giving(model, names), path)
        with OrtRunner(path, exact=True) as runner:
            dtypes = {spec.name: spec.dtype for spec in runner.inputs}
            given = ({name: feed.astype(dtypes[name]) for name, feed in case.feeds.items()} for case in cases)
            return [
                {
                    name: value if value.dtype.kind in "iu" else value.astype("float32")
                    for name, value in runner.infer(feeds).items()
                }
                for feeds in given
            ]


def _distances(
    wanted: Sequence[verify.Arrays], given: Sequence[verify.Arrays]
) -> list[dict[str, verify.Distance]]:
    return [
        {name: verify.distance(want[name], got[name]) for name in want}
        for want, got in zip(wanted, given, strict=True)
    ]


def _farthest(cases: Iterable[Mapping[str, verify.Distance]]) -> float:
    """The largest relative L2 of any tensor on any case."""
    return max(found.rel_l2 for case in cases for found in case.values())
