"""`compare`: two reports on literal samples, and two ONNX graphs that really run."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bbx.benchmarks import compare as compare_module
from bbx.benchmarks.bench import bench
from bbx.benchmarks.compare import compare
from bbx.benchmarks.environment import describe
from bbx.benchmarks.journal import write_samples
from bbx.benchmarks.reports import document
from bbx.errors import ArtifactError, UsageError

FAST, SLOW, NOISY = "fast/ort-cpu/fp32/b1/single", "slow/ort-cpu/fp32/b1/single", "noisy/eager/fp32/b1/single"
MEDIANS = {FAST: 1_000_000, SLOW: 40_000_000, NOISY: 5_000_000}


def row(key: str, median: float, **change: Any) -> dict[str, Any]:
    subject, runtime, precision, _, scenario = key.split("/")
    latency = {
        "median": median,
        "ci95": None,
        "p90": None,
        "p95": None,
        "p99": None,
        "min": 1,
        "mean": median,
    }
    return {
        "key": key,
        "subject": subject,
        "runtime": runtime,
        "precision": precision,
        "batch": 1,
        "scenario": scenario,
        "verdict": "valid",
        "reasons": [],
        "latency_ns": latency | {"iqr": 1},
        "throughput_per_s": 1e9 / median,
        "samples": f"samples/{subject}.npz",
        "peak_bytes": None,
        "parity": None,
        "clock": "perf_counter_ns",
        "threads": None,
        "device": "cpu",
        "weights": "random",
        "command": f"bbx bench {subject}",
    } | change


@pytest.fixture(scope="module")
def environment() -> dict[str, Any]:
    return describe()


Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path, environment: dict[str, Any]) -> Made:
    """Writes a report whose rows have the medians above times a factor; gives its folder."""

    def make(
        name: str,
        factors: dict[str, float] | None = None,
        *,
        rows: dict[str, dict[str, Any]] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> Path:
        out = tmp_path / name
        results = []
        for seed, (key, median) in enumerate(MEDIANS.items()):
            factor = (factors or {}).get(key, 1.0)
            generator = np.random.default_rng(seed + 100 * len(name))
            spread = 0.4 if key == NOISY else 0.01
            samples = (factor * median * np.exp(spread * generator.standard_normal(60))).astype(np.int64)
            results.append(row(key, float(np.median(samples)), **(rows or {}).get(key, {})))
            write_samples(out / "samples" / f"{results[-1]['subject']}.npz", samples, samples[:3])
        report = document(
            results,
            environment=facts or environment,
            left_out=[],
            profile="quick",
            planned=list(MEDIANS),
        )
        (out / "report.json").write_text(json.dumps(report))
        return out

    return make


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {pair["key"]: pair["verdict"] for pair in found["pairs"]}


def test_every_row_of_two_reports_gets_its_verdict(made: Made) -> None:
    found = compare(made("base"), made("head", {FAST: 1.2, SLOW: 0.8}))
    assert verdicts(found) == {FAST: "slower", SLOW: "faster", NOISY: "ambiguous"}
    by_key = {pair["key"]: pair for pair in found["pairs"]}
    assert by_key[FAST]["ratio"] == pytest.approx(1.2, abs=0.02)
    assert by_key[FAST]["ci95"][0] < 1.2 < by_key[FAST]["ci95"][1]
    assert (found["mode"], found["effect"], found["verdicts"]["slower"]) == ("stored", 0.05, 1)
    assert "weaker guarantee" in found["guarantee"]
    json.dumps(found, allow_nan=False)


def test_a_report_is_the_same_as_itself_also_by_its_file(made: Made) -> None:
    folder = made("base")
    found = compare(folder, folder / "report.json", keys=[FAST, SLOW])
    assert verdicts(found) == {FAST: "same", SLOW: "same"}
    assert {pair["ratio"] for pair in found["pairs"]} == {1.0}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"verdict": "contended"}, "The row of head is contended"),
        ({"threads": 4}, "The rows differ in threads: None and 4."),
        ({"device": "cuda"}, "differ in device: cpu and cuda"),
        ({"weights": "pretrained"}, "differ in weights"),
        ({"samples": None}, "The samples of head are not there."),
    ],
)
def test_rows_that_cannot_be_compared_say_why(made: Made, change: dict[str, Any], text: str) -> None:
    found = compare(made("base"), made("head", {SLOW: 1.5}, rows={SLOW: change}))
    assert verdicts(found) == {FAST: "same", NOISY: "ambiguous"}
    [refused] = found["not_compared"]
    assert refused["key"] == SLOW
    assert text in refused["reason"]


def test_a_trace_that_changed_on_the_way_proves_nothing(made: Made) -> None:
    base, head = made("base"), made("head", {SLOW: 1.5})
    jump = np.repeat([40_000_000, 44_000_000], 30) + np.tile(np.arange(30), 2)
    write_samples(base / "samples" / "slow.npz", jump, jump[:3])
    found = compare(base, head, keys=[SLOW])
    assert verdicts(found) == {SLOW: "ambiguous"}
    assert "two halves of base's own trace" in found["pairs"][0]["reason"]


def test_rows_of_only_one_report_are_named(made: Made) -> None:
    base, head = made("base"), made("head")
    report = json.loads((head / "report.json").read_text())
    report["results"] = report["results"][:1]
    (head / "report.json").write_text(json.dumps(report))
    found = compare(base, head)
    assert (found["only_in_base"], found["only_in_head"]) == ([SLOW, NOISY], [])


def test_another_environment_is_refused_and_what_differs_is_named(
    made: Made, environment: dict[str, Any]
) -> None:
    other = copy.deepcopy(environment)
    other["libraries"]["torch"] = "1.0"
    other["cpu"]["model"] = "Another CPU"
    other["fingerprint"] = "f" * 64
    base, head = made("base"), made("head", facts=other)
    with pytest.raises(UsageError) as caught:
        compare(base, head)
    assert "libraries.torch (" in caught.value.message
    assert "and 1.0)" in caught.value.message
    assert "Another CPU" in caught.value.message
    with pytest.raises(UsageError, match=r"cpu\.model"):
        compare(base, head, despite=["libraries.torch"])
    found = compare(base, head, despite=["libraries", "cpu.model"])
    assert [text.partition(" ")[0] for text in found["differs"]] == ["cpu.model", "libraries.torch"]


def test_what_changes_from_minute_to_minute_does_not_matter(made: Made, environment: dict[str, Any]) -> None:
    later = copy.deepcopy(environment)
    later["load_average"] = [9.0, 9.0, 9.0]
    later["cpu"]["mhz"] = 1.0
    assert compare(made("base"), made("head", facts=later))["differs"] == []


def test_reports_that_cannot_be_read_are_refused(made: Made, tmp_path: Path) -> None:
    base, head = made("base"), made("head")
    file = head / "report.json"
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="cut short"):
        compare(base, head)
    file.write_text(whole.replace('"bbx/1"', '"bbx/2"', 1))
    with pytest.raises(ArtifactError, match="pip install --upgrade bbx"):
        compare(base, head)
    with pytest.raises(ArtifactError, match="There is no file"):
        compare(base, tmp_path / "nowhere")


def test_unknown_rows_and_reports_without_a_common_one_are_refused(made: Made) -> None:
    base, head = made("base"), made("head")
    with pytest.raises(UsageError, match=f"(?s)no row 'fats.*{FAST}"):
        compare(base, head, keys=["fats/ort-cpu/fp32/b1/single"])
    report = json.loads((head / "report.json").read_text())
    for index, each in enumerate(report["results"]):
        each["key"] = f"other{index}"
    (head / "report.json").write_text(json.dumps(report))
    with pytest.raises(UsageError, match="no row in common"):
        compare(base, head)
    with pytest.raises(UsageError, match="There is no row"):
        compare(base, head, keys=[FAST])


def test_a_report_of_several_machines_is_refused(made: Made, environment: dict[str, Any]) -> None:
    base, head = made("base"), made("head")
    report = json.loads((head / "report.json").read_text())
    report["environments"] = [environment, environment | {"fingerprint": "f" * 64}]
    (head / "report.json").write_text(json.dumps(report))
    with pytest.raises(UsageError, match="several machines"):
        compare(base, head)


# --- live -------------------------------------------------------------------------------------------


def graph(path: Path, *, channels: int = 32, size: int = 32, factor: float = 1.0) -> Path:
    """Convolutions of some width, as somebody else's ONNX file."""
    generator = np.random.default_rng(0)
    first = generator.standard_normal((channels, 3, 3, 3)).astype(np.float32)
    second = (factor * generator.standard_normal((5, channels, 3, 3))).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["wide"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["wide"], ["active"]),
        helper.make_node("Conv", ["active", "second"], ["maps"], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, size, size])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])
    weights = [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")]
    model = helper.make_model(
        helper.make_graph(nodes, "net", [images], [logits], weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, path)
    return path


def test_a_graph_with_four_times_the_work_is_slower_and_gives_other_answers(tmp_path: Path) -> None:
    base, head = graph(tmp_path / "base.onnx"), graph(tmp_path / "head.onnx", channels=256)
    found = compare(base, head, threads=1)
    [pair] = found["pairs"]
    assert found["mode"] == "live"
    # On a machine that is disturbed too much for its own control nothing may be called slower.
    assert pair["verdict"] == ("ambiguous" if found["void"] else "slower")
    assert pair["ratio"] > 2
    assert found["answers"]["verdict"] == "fail"
    assert len(found["log_ratios"]["medians"]) == len(found["control_log_ratios"]["medians"]) == 30
    assert found["control"]["ratio"] == pytest.approx(1, abs=0.2)


def test_a_control_that_fires_voids_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"ratio": 1.1, "low": 1.08, "high": 1.12, "p": 0.0, "change": "slower", "reason": ""}
    voided = numbers | {"change": "ambiguous", "reason": compare_module.VOID}
    answer = {
        "finding": voided,
        "control": numbers,
        "base_ns": 1.0,
        "block_runs": 1,
        "log_ratios": {},
        "control_log_ratios": {},
        "answers": {"verdict": "pass"},
    }
    monkeypatch.setattr(compare_module, "run_task", lambda *_, **__: answer)
    found = compare(graph(tmp_path / "base.onnx"), graph(tmp_path / "head.onnx"))
    assert found["void"] == compare_module.VOID
    assert found["verdicts"] == {"ambiguous": 1}


def test_artefacts_for_other_inputs_are_refused(tmp_path: Path) -> None:
    base, head = graph(tmp_path / "base.onnx"), graph(tmp_path / "head.onnx", size=48)
    with pytest.raises(UsageError, match=r"not comparable: base takes images .*32, 32.*48, 48"):
        compare(base, head)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"keys": ["x"]}, "--key belongs to the comparison of two reports"),
        ({"despite": ["cpu"]}, "--despite belongs"),
        ({"runtime": ["torchscript"]}, "torchscript does not run .* These do: ort-cpu, openvino, ort-cuda"),
        ({"runtime": ["ort-cpu"] * 3}, "once for both, or twice"),
        ({"effect": 2.0}, "--effect is a share between 0 and 1"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(
    tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    base = graph(tmp_path / "base.onnx")
    with pytest.raises(UsageError, match=text):
        compare(base, base, **options)


def test_an_artefact_and_a_report_are_not_comparable(tmp_path: Path, made: Made) -> None:
    with pytest.raises(UsageError, match="one is an artefact and the other a report"):
        compare(graph(tmp_path / "base.onnx"), made("head"))
    with pytest.raises(UsageError, match="--threads belongs to the comparison of two artefacts"):
        compare(made("base"), made("head"), threads=1)
    with pytest.raises(ArtifactError, match="There is no file"):
        compare(tmp_path / "none.onnx", tmp_path / "other.onnx")


def test_what_bench_writes_can_be_compared(tmp_path: Path) -> None:
    net = graph(tmp_path / "net.onnx", size=64)
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        bench([str(net)], runtimes=["ort-cpu"], threads=1, out=folder)
    found = compare(*folders)
    keys = [each["key"] for each in (*found["pairs"], *found["not_compared"])]
    assert keys == [f"{net}/ort-cpu/fp32/b1/single/t1"]
