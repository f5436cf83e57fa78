"""The whole road with real ONNX Runtime and torch, in real child processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bbx import process
from bbx.benchmarks import bench as bench_module
from bbx.benchmarks.bench import bench
from bbx.benchmarks.feeds import cases_for
from bbx.benchmarks.journal import read_samples
from bbx.benchmarks.parity import against_reference, measured_path, worst
from bbx.cli.bench import exit_code
from bbx.errors import Cancelled, ModelError, UsageError
from bbx.runners.fake import FakeRunner
from bbx.runners.registry import availability
from bbx.types import Preprocess, TensorSpec
from tests.conftest import Command

VALID = "valid"
INPUTS = (TensorSpec("images", "float32", (None, 3, 8, 8)),)
OUTPUTS = (TensorSpec("logits", "float32", (None, 5)),)


def write_graph(path: Path, *, batch: int | str = "batch") -> Path:
    """A convolution and a mean, as somebody else's ONNX file."""
    weight = np.random.default_rng(0).standard_normal((5, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "weight"], ["maps"], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_graph(tmp_path / "net.onnx")


def test_a_graph_is_measured_and_then_not_again(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    found = bench([str(graph)], runtimes=["ort-cpu"], out=out, threads=1)
    [row] = found["results"]
    assert row["latency_ns"]["min"] <= row["latency_ns"]["median"]
    assert (row["clock"], row["device"]) == ("perf_counter_ns", "cpu")
    assert row["parity"]["verdict"] == "pass"
    samples, warm_up = read_samples(out / row["samples"])
    assert (samples.size, warm_up.size) == (row["runs"], row["warm_up"]["runs"])
    assert int(samples.min()) == row["latency_ns"]["min"]
    assert row["throughput_per_s"] * row["latency_ns"]["mean"] == pytest.approx(1e9, rel=0.05)
    assert json.loads((out / "report.json").read_text()) == found
    monkeypatch.setattr(process.subprocess, "Popen", _no_child)
    again = bench([str(graph)], runtimes=["ort-cpu"], out=out, threads=1, resume=True)
    assert again["results"] == found["results"]


def _no_child(*_: Any, **__: Any) -> None:
    raise AssertionError("a child process was started")


def test_a_preset_is_exported_side_by_side_and_proven_at_what_is_measured(tmp_path: Path) -> None:
    found = bench(
        ["mobilenet_v3_small"],
        runtimes=["eager", "torchscript", "ort-cpu"],
        batches=(2,),
        threads=1,  # two that wait for each other on a busy machine take as long as a large network
        out=tmp_path,
        spec_options={"weights": "random", "image_size": 32, "head": "none"},
    )
    eager, *others = found["results"]
    assert (eager["runtime"], eager["weights"]) == ("eager", "random")
    assert [case["input"] for case in eager["parity"]["cases"]] == ["photographs", "photographs"]
    assert eager["parity"]["against"] == "eager, not measured"  # the module is what all else is compared with
    assert eager["throughput_per_s"] == pytest.approx(2e9 / eager["latency_ns"]["mean"], rel=0.06)
    assert {row["parity"]["verdict"] for row in found["results"]} == {"pass"}
    assert [row["runtime"] for row in others] == ["torchscript", "ort-cpu"]
    for suffix in ("torchscript", "onnx"):
        [path] = tmp_path.glob(f"*.{suffix}.json")
        made = json.loads(path.read_text())["document"]
        assert {case["batch"] for case in made["parity"]["cases"]} == {2}
        assert "Parity was shown at batch 2 only" in made["notes"][-1]


def test_a_fixed_batch_that_does_not_fit_says_what_to_type(tmp_path: Path) -> None:
    fixed = write_graph(tmp_path / "fixed.onnx", batch=2)
    found = bench([str(fixed)], runtimes=["ort-cpu"], batches=(3,), out=tmp_path / "out")
    [row] = found["results"]
    assert row["verdict"] == "failed"
    assert row["reasons"][0]["text"].startswith("UsageError: The artefact has the fixed batch 2")
    assert row["reasons"][0]["remedy"] == "Type --batch 2."


@pytest.mark.skipif(availability()["ort-cuda"].ok, reason="this machine has a GPU")
def test_a_runtime_that_is_not_here_has_rows_that_say_so_beside_those_of_the_others(
    graph: Path, tmp_path: Path, bbx: Command
) -> None:
    runtimes = ("--runtime", "ort-cuda", "--runtime", "ort-cpu", "--precision", "fp32")
    answer = bbx("bench", graph, *runtimes, "--threads", 1, "--json", "-o", tmp_path / "out")
    assert answer.code == 5
    absent, measured = answer.document["results"]
    assert (absent["key"], absent["verdict"]) == (f"{graph}/ort-cuda/fp32/b1/single", "failed")
    assert absent["reasons"][0]["text"].startswith("UnavailableError: ort-cuda: ")
    assert absent["reasons"][0]["remedy"]
    assert measured["latency_ns"]["median"] > 0
    assert answer.stderr.count("warning: ort-cuda: ") == 1
    assert answer.error.startswith("ort-cuda: ")
    assert answer.document["error"] == {
        "type": "UnavailableError",
        "message": absent["reasons"][0]["text"].removeprefix("UnavailableError: "),
        "hint": absent["reasons"][0]["remedy"],
        "exit_code": 5,
    }
    again = bbx("bench", graph, *runtimes, "--threads", 1, "--resume", "-o", tmp_path / "out")
    assert again.code == 5
    assert "2 rows: 1 failed" in again.stdout
    assert "ort-cuda" in (tmp_path / "out" / "report.md").read_text()
    case = next(ElementTree.parse(tmp_path / "out" / "junit.xml").iter("testcase"))
    assert "ort-cuda" in case.get("name", "")
    assert [child.tag for child in case] == ["error"]


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([(VALID, None)], 0),
        ([(VALID, None), ("failed", 1)], 0),
        ([("failed", 1), ("failed", 6)], 1),
        ([(VALID, None), ("failed", 5)], 5),
        ([("failed", 1), ("failed", 5)], 5),
        ([("failed", 5), ("parity_failed", 3)], 3),
    ],
)
def test_the_exit_code_is_that_of_the_gravest_row(rows: list[tuple[str, int | None]], code: int) -> None:
    results = [
        {"verdict": verdict, "latency_ns": {"median": 1} if verdict == VALID else None}
        | ({} if alone is None else {"exit_code": alone})
        for verdict, alone in rows
    ]
    assert exit_code({"results": results}) == code


def test_a_cancelled_run_reports_what_it_has(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = dict.fromkeys(("latency_ns", "throughput_per_s", "samples", "peak_bytes", "parity"))
    answer = {"reasons": [], "verdict": "failed", "precision": "fp32", "scenario": "single", **nothing}
    answers = iter([answer])

    def execute(request: dict[str, Any]) -> dict[str, Any]:
        names = ("key", "subject", "runtime", "batch", "command")
        for answer in answers:
            return answer | {name: request[name] for name in names}
        raise Cancelled("Cancelled.")

    monkeypatch.setattr(bench_module, "in_child", lambda _: execute)
    with pytest.raises(Cancelled):
        bench([str(graph)], runtimes=["ort-cpu"], batches=(1, 2), out=tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    assert not written["complete"]
    assert len(written["results"]) == 1


@pytest.mark.parametrize(
    ("subjects", "options", "error", "text"),
    [
        ([], {}, UsageError, "Nothing to measure"),
        (["resnet19"], {}, ModelError, "resnet18"),
        (["resnet18"], {"batches": (0,)}, UsageError, "--batch must be at least 1"),
        (["resnet18"], {"profile": "fast"}, UsageError, "no profile 'fast'"),
        (["resnet18"], {"runtimes": ["ort"]}, UsageError, "ort-cpu"),
        (["resnet18"], {"runtimes": ["torchscript"], "precisions": ("bf16",)}, UsageError, "in fp32"),
    ],
)
def test_wrong_options_are_found_before_anything_is_measured(
    tmp_path: Path, subjects: list[str], options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        bench(subjects, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_fast_path_that_computes_something_else_is_found() -> None:
    cases = cases_for(INPUTS, None, 2)
    with FakeRunner(INPUTS, OUTPUTS) as reference, FakeRunner(INPUTS, OUTPUTS, cached=True) as runner:
        assert (
            measured_path(runner, runner.bind(cases[0].feeds), cases[:1], "fp32", None)["verdict"] == "pass"
        )
        bound = runner.bind(cases[0].feeds)
        found = against_reference(reference, runner, bound, cases, precision="fp32", postprocess=None)
    assert found["verdict"] == "fail"
    assert "logits" in found["reasons"][0]


def test_the_gravest_finding_counts_and_none_is_none() -> None:
    fail, unsure, good = ({"verdict": verdict} for verdict in ("fail", "inconclusive", "pass"))
    assert worst([good, None, fail, unsure]) is fail
    assert worst([None, good]) is good
    assert worst([None]) is None


def test_a_row_is_fed_with_different_photographs_where_the_input_is_an_image() -> None:
    how = Preprocess(height=8, width=8)
    first, second, noise = cases_for(INPUTS, how, 3)
    assert [case.input for case in (first, second, noise)] == ["photographs", "photographs", "noise"]
    assert first.feeds["images"].shape == (3, 3, 8, 8)
    assert not np.array_equal(first.feeds["images"], second.feeds["images"])


def test_a_row_on_onnx_runtime_does_not_load_torch() -> None:
    code = (
        "import sys, bbx.benchmarks.row, bbx.benchmarks.bench, bbx.runners.ort, onnxruntime;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
