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
