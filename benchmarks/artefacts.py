"""The artefact that a row runs, and the one that its answers are compared with.

Made or reused through `bbx.pipeline` before the row's child process starts, so that no build disturbs a
measurement and none happens twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

from bbx.artifact import Manifest, out_path, read_manifest, reusable, sha256_of
from bbx.benchmarks.plan import Row, Subject
from bbx.errors import BbxError, Cancelled
from bbx.models.registry import lowered
from bbx.pipeline import EngineStep, ExportStep, Step, TypedStep, ensure
from bbx.process import Listener, silent
from bbx.runners.registry import RUNTIMES
from bbx.types import Flavor, Precision

COMMAND = "bbx bench"


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file on disk with its hash."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Ready:
    """What a row needs before it can start.

    Attributes:
        artefact: what the runtime opens; None where it takes the module itself.
        reference: FP32 ONNX graph whose answers on ONNX Runtime (CPU) are the reference; None where the
            reference is torch, or there is none.
    """

    artefact: Artefact | None
    reference: Artefact | None


@dataclass(slots=True)
class Workshop:
    """Makes or reuses artefacts in one folder, each once in a benchmark.

    Attributes:
        out: where the artefacts stand; one that `bbx export` made there is reused.
        listener: hears the progress of builds.
        proven_at: batch sizes that exports are proven at; empty for what `bbx export` does. What that proved
            and left on disk is used all the same.
    """

    out: Path
    listener: Listener = silent
    proven_at: tuple[int, ...] = ()
    _made: dict[tuple[Step, Path], Artefact | BbxError] = field(default_factory=dict)

    def ready(self, subject: Subject, row: Row) -> Ready:
        """Make or reuse what a row needs.

        Raises:
            BbxError: it cannot be made, or is not right.
        """
        wants = RUNTIMES[row.runtime].format
        if wants is None:
            return Ready(None, None)
        if subject.format == wants and (subject.is_fixed or row.precision == "fp32"):
            return Ready(self._file(subject), self._reference(subject, row))
        if wants in ("torchscript", "pt2"):
            return Ready(self._exported(subject, wants), None)
        graph = self._graph(subject, row.precision, "onnx" if wants == "onnx" else "static")
        if wants == "onnx":
            return Ready(graph, self._reference(subject, row))
        return Ready(self._engine(row, graph), self._reference(subject, row))

    def exports_for(self, subject: Subject, row: Row) -> list[ExportStep]:
        """The exports that `ready` will need for a row and that have not been tried yet."""
        if subject.spec is None or (wants := RUNTIMES[row.runtime].format) is None:
            return []
        steps = []
        if wants in ("torchscript", "pt2"):
            steps.append(self._export_step(subject, wants, "static"))
        else:
            steps.append(self._export_step(subject, "onnx", "onnx" if wants == "onnx" else "static"))
            if not _is_own_reference(subject, row):
                steps.append(self._export_step(subject, "onnx", "onnx"))
        return [step for step in steps if (step, self.out) not in self._made]

    def attempt(self, step: Step) -> None:
        """Make or reuse an artefact now; `ready` gives it, or raises why there is none."""
        self._made[(step, self.out)] = self._attempt(step, self.out)

    def _reference(self, subject: Subject, row: Row) -> Artefact | None:
        if _is_own_reference(subject, row):
            return None
        return self._graph(subject, "fp32", "onnx")

    def _file(self, subject: Subject) -> Artefact:
        assert subject.file is not None  # its format is the file's
        return Artefact(subject.file, sha256_of(subject.file))

    def _exported(
        self,
        subject: Subject,
        format: Literal["onnx", "torchscript", "pt2"],
        lowering: Literal["static", "onnx"] = "static",
    ) -> Artefact:
        return self._once(self._export_step(subject, format, lowering), self.out)

    def _export_step(
        self,
        subject: Subject,
        format: Literal["onnx", "torchscript", "pt2"],
        lowering: Literal["static", "onnx"],
    ) -> ExportStep:
        assert subject.spec is not None  # a file has no other format
        spec = lowered(subject.spec, lowering)
        return ExportStep(f"{COMMAND} {subject.name}", spec, format, proven_at=self.proven_at)

    def _graph(self, subject: Subject, precision: Precision, lowering: Literal["static", "onnx"]) -> Artefact:
        plain = self._exported(subject, "onnx", lowering) if subject.file is None else self._file(subject)
        if precision == "fp32" or subject.is_fixed:
            return plain
        half = cast(Literal["fp16", "bf16"], precision)
        return self._once(TypedStep(f"{COMMAND} {subject.name}", plain.path, half), self.out)

    def _engine(self, row: Row, graph: Artefact) -> Artefact:
        """An engine whose one profile is the row's batch, which is what the builder tunes for."""
        flavor: Flavor = "rtx" if row.runtime == "rtx" else "tensorrt"
        batch = str(row.batch)
        step = EngineStep(
            f"{COMMAND} {row.subject}", graph.path, row.precision, flavor, profiles=(",".join([batch] * 3),)
        )
        name = f"{graph.path.stem}.{flavor}.b{row.batch}.engine"
        return self._once(step, self.out / name)

    def _once(self, step: Step, out: Path) -> Artefact:
        key = (step, out)
        if key not in self._made:
            self._made[key] = self._attempt(step, out)
        found = self._made[key]
        if isinstance(found, BbxError):
            raise found
        return found

    def _attempt(self, step: Step, out: Path) -> Artefact | BbxError:
        """The artefact, or why there is none: what failed once is not tried again for the next row."""
        if (
            isinstance(step, ExportStep)
            and step.proven_at
            and _stands(whole := replace(step, proven_at=()), out)
        ):
            step = whole
        try:
            made = ensure(step, out, listener=self.listener)
        except Cancelled:
            raise
        except BbxError as error:
            return error
        return Artefact(made.path, made.manifest.sha256)


def _stands(step: Step, out: Path) -> bool:
    """Whether the artefact of a step is on disk, byte for byte."""
    if not step.reusable:
        return False
    path = out_path(out, step.stem, step.result_format).absolute()
    return reusable(path, step.fingerprint()) is not None


def _is_own_reference(subject: Subject, row: Row) -> bool:
    """Whether there is nothing better to compare a row with than its own artefact's manifest."""
    return subject.is_fixed or (row.runtime == "ort-cpu" and row.precision == "fp32")


def manifest_of(path: Path, sha256: str | None = None) -> Manifest | None:
    """The manifest beside an artefact, when it is that file's.

    Args:
        sha256: of the file, where that is known.
    """
    manifest = read_manifest(path)
    return manifest if manifest is not None and manifest.sha256 == (sha256 or sha256_of(path)) else None
