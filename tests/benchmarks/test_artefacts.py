from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bbx.benchmarks import artefacts
from bbx.benchmarks.artefacts import Workshop
from bbx.benchmarks.plan import Row, Subject
from bbx.errors import Cancelled, ExportError
from bbx.models.spec import ModelSpec
from bbx.pipeline import EngineStep, ExportStep, TypedStep

MODEL = Subject("resnet18", spec=ModelSpec("resnet18"))


@dataclass
class Pipeline:
    """Stands in for `bbx.pipeline.ensure` and remembers the steps it was given."""

    steps: list[Any]
    error: Exception | None = None

    def ensure(self, step: Any, out: Path, *, listener: Any) -> SimpleNamespace:
        self.steps.append(step)
        if self.error is not None:
            raise self.error
        path = out if out.suffix else out / f"{step.stem}.{step.result_format}"
        return SimpleNamespace(path=path, manifest=SimpleNamespace(sha256=f"hash of {path.name}"))


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    made = Pipeline([])
    monkeypatch.setattr(artefacts, "ensure", made.ensure)
    return made


@pytest.mark.parametrize("runtime", ["eager", "compile", "fake"])
def test_a_module_needs_no_artefact(pipeline: Pipeline, tmp_path: Path, runtime: str) -> None:
    ready = Workshop(tmp_path).ready(MODEL, Row("resnet18", runtime, "fp32", 1))
    assert (ready.artefact, ready.reference, pipeline.steps) == (None, None, [])


def test_every_artefact_is_made_once_for_all_of_its_rows(pipeline: Pipeline, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    for runtime in ("torchscript", "pt2", "ort-cpu"):
        for batch in (1, 8):
            workshop.ready(MODEL, Row("resnet18", runtime, "fp32", batch))
    assert [step.format for step in pipeline.steps] == ["torchscript", "pt2", "onnx"]


def test_half_precision_is_a_typed_graph_compared_with_the_plain_one(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    ready = Workshop(tmp_path).ready(MODEL, Row("resnet18", "ort-cuda", "fp16", 1))
    assert [type(step) for step in pipeline.steps] == [ExportStep, TypedStep]
    assert ready.artefact is not None
    assert ready.reference is not None
    assert (ready.artefact.path.name, ready.reference.path.name) == ("resnet18.fp16.onnx", "resnet18.onnx")


def test_an_engine_is_built_for_the_rows_batch_and_flavour(pipeline: Pipeline, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    names = set()
    for runtime in ("rtx", "tensorrt"):
        for batch in (1, 8):
            ready = workshop.ready(MODEL, Row("resnet18", runtime, "bf16", batch))
            assert ready.artefact is not None
            names.add(ready.artefact.path.name)
    engines = [step for step in pipeline.steps if isinstance(step, EngineStep)]
    assert [(step.flavor, step.profiles, step.precision) for step in engines] == [
        ("rtx", ("1,1,1",), "bf16"),
        ("rtx", ("8,8,8",), "bf16"),
        ("tensorrt", ("1,1,1",), "bf16"),
        ("tensorrt", ("8,8,8",), "bf16"),
    ]
    assert len(names) == 4


def test_a_file_is_taken_as_it_is(pipeline: Pipeline, tmp_path: Path) -> None:
    graph = tmp_path / "net.onnx"
    graph.write_bytes(b"graph")
    subject = Subject("net.onnx", file=graph)
    ready = Workshop(tmp_path).ready(subject, Row("net.onnx", "ort-cuda", "fp32", 1))
    assert ready.artefact is not None
    assert ready.artefact.path == graph
    assert ready.reference == ready.artefact
    assert pipeline.steps == []


def test_what_failed_once_is_not_tried_for_the_next_row(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.error = ExportError("no exporter could express it")
    workshop = Workshop(tmp_path)
    for batch in (1, 2):
        with pytest.raises(ExportError, match="no exporter"):
            workshop.ready(MODEL, Row("resnet18", "ort-cpu", "fp32", batch))
    assert len(pipeline.steps) == 1


def test_a_cancelled_build_ends_the_run(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.error = Cancelled("Cancelled.")
    with pytest.raises(Cancelled):
        Workshop(tmp_path).ready(MODEL, Row("resnet18", "ort-cpu", "fp32", 1))


def test_a_quick_run_proves_exports_at_its_own_batches(pipeline: Pipeline, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, proven_at=(1, 8))
    row = Row("resnet18", "ort-cpu", "fp32", 8)
    assert [step.proven_at for step in workshop.exports_for(MODEL, row)] == [(1, 8)]
    workshop.ready(MODEL, row)
    assert [step.proven_at for step in pipeline.steps] == [(1, 8)]
    assert workshop.exports_for(MODEL, row) == []


def test_what_export_proved_whole_is_used_by_a_quick_run(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ExportStep("bbx export resnet18", ModelSpec("resnet18"))
    stands = {whole.fingerprint(): "its manifest"}
    monkeypatch.setattr(artefacts, "reusable", lambda path, fingerprint: stands.get(fingerprint))
    Workshop(tmp_path, proven_at=(1,)).ready(MODEL, Row("resnet18", "ort-cpu", "fp32", 1))
    assert [step.proven_at for step in pipeline.steps] == [()]


@pytest.mark.parametrize(
    ("runtime", "precision", "formats"),
    [
        ("eager", "fp32", []),
        ("torchscript", "fp32", ["torchscript"]),
        ("ort-cpu", "fp32", ["onnx"]),
        ("ort-cuda", "fp16", ["onnx"]),
        ("tensorrt", "fp16", ["onnx"]),
    ],
)
def test_the_exports_of_a_row_are_known_before_it_is_ready(
    pipeline: Pipeline, tmp_path: Path, runtime: str, precision: Any, formats: list[str]
) -> None:
    workshop = Workshop(tmp_path)
    row = Row("resnet18", runtime, precision, 1)
    steps = list(dict.fromkeys(workshop.exports_for(MODEL, row)))
    assert [step.format for step in steps] == formats
    for step in steps:
        workshop.attempt(step)
    workshop.ready(MODEL, row)
    assert [step.format for step in pipeline.steps if isinstance(step, ExportStep)] == formats


def test_an_export_that_failed_ahead_fails_its_row(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.error = ExportError("no exporter")
    workshop = Workshop(tmp_path)
    row = Row("resnet18", "ort-cpu", "fp32", 1)
    [step] = workshop.exports_for(MODEL, row)
    workshop.attempt(step)
    with pytest.raises(ExportError, match="no exporter"):
        workshop.ready(MODEL, row)
    assert len(pipeline.steps) == 1
