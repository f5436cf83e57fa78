"""What scripts rely on: one JSON document on stdout, all else on stderr, the fields, the exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bbx.exporter.engine_options import current_target

RTX = ("--flavor", "rtx", "--target", "sm_86")


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def check_tensors(specs: Any) -> None:
    assert specs
    for spec in specs:
        assert isinstance(spec["name"], str)
        assert isinstance(spec["dtype"], str)
        assert all(size is None or isinstance(size, int) for size in spec["shape"])


def check_parity(parity: Any) -> None:
    assert parity["verdict"] in ("pass", "fail", "inconclusive")
    for case in parity["cases"]:
        assert isinstance(case["batch"], int)
        assert isinstance(case["input"], str)
        for distance in case["outputs"].values():
            assert {"max_abs", "rel_l2", "cosine"} == set(distance)
            assert all(value is None or isinstance(value, float) for value in distance.values())


def check_seconds(seconds: Any, *phases: str) -> None:
    assert set(phases) <= set(seconds)
    assert all(value >= 0 for value in seconds.values())
    assert seconds["total"] >= max(seconds[phase] for phase in phases)


def check_export(document: Any, path: Path) -> None:
    assert document["schema"] == "bbx/1"
    assert document["artifact"] == str(path)
    assert path.is_file()
    assert document["format"] in ("onnx", "torchscript", "pt2")
    assert _is_sha256(document["sha256"])
    assert document["weights"] in ("random", "pretrained") or set(document["weights"]) == {"path", "sha256"}
    check_tensors(document["inputs"])
    check_tensors(document["outputs"])
    check_parity(document["parity"])
    check_seconds(document["seconds"], "build", "export", "verify", "total")
    assert document["command"].startswith("bbx export ")


def check_engine(document: Any, path: Path) -> None:
    assert document["schema"] == "bbx/1"
    assert document["engine"] == str(path)
    assert path.is_file()
    assert _is_sha256(document["sha256"])
    assert _is_sha256(document["source_sha256"])
    assert document["flavor"] == "rtx"
    assert document["version"][0].isdigit()
    assert document["targets"] == ["sm_86"]
    precision = document["precision"]
    assert precision["verdict"] in ("pass", "fail")
    for found in precision["achieved"].values():
        assert isinstance(found["layers"], int)
        assert isinstance(found["weight_bytes"], int)
    assert {"min", "opt", "max"} == set(document["profiles"][0]["images"])
    check_parity(document["parity"])
    check_seconds(document["seconds"], "build", "verify", "total")
    assert document["command"].startswith("bbx build-trt ")


def test_an_export_and_an_engine_from_processes_of_their_own(
    bbx_process: Any, nets_folder: Path, tmp_path: Path
) -> None:
    ask = ("sample_nets:tiny", "--json", "-o", tmp_path)
    exported = bbx_process("export", *ask, cwd=nets_folder)
    assert exported.code == 0
    check_export(exported.document, tmp_path / "sample_nets-tiny.onnx")
    assert [line.split(":")[0] for line in exported.stderr.splitlines()] == ["build", "export", "verify"]
    built = bbx_process("build-trt", *ask, *RTX, "--fp16", cwd=nets_folder)
    assert built.code == 0, built.stderr
    check_engine(built.document, tmp_path / "sample_nets-tiny.fp16.engine")
    assert built.document["precision"]["requested"] == "fp16"
    assert "build engine" in built.stderr


def test_without_json_a_person_reads_it(bbx: Any, in_nets_folder: Path, tmp_path: Path) -> None:
    exported = bbx("export", "sample_nets:tiny", "-f", "torchscript", "-o", tmp_path)
    first, *rest = exported.stdout.splitlines()
    assert first.startswith(f"{tmp_path}/sample_nets-tiny.torchscript  (")
    words = {line.split()[0] for line in rest}
    assert {"weights", "inputs", "outputs", "parity"} <= words
    assert "images float32 ?×3×16×16" in exported.stdout
    assert "pass against torch (sample_nets:tiny): relative L2 at most" in exported.stdout


def test_quiet_is_quiet(bbx: Any, in_nets_folder: Path, tmp_path: Path) -> None:
    assert bbx("export", "sample_nets:tiny", "-f", "torchscript", "-q", "-o", tmp_path).stderr == ""


def test_the_recorded_command_makes_it_again(bbx: Any, in_nets_folder: Path, tmp_path: Path) -> None:
    options = ("-f", "torchscript", "--batch", 2, "--input", "uint8", "--seed", 3, "--image-size", 24)
    first = bbx("export", "sample_nets:tiny", *options, "--json", "-o", tmp_path / "one").document
    words = first["command"].split()
    assert words[:3] == ["bbx", "export", "sample_nets:tiny"]
    again = bbx(*words[1:], "--json", "-o", tmp_path / "two").document
    assert {key: again[key] for key in ("inputs", "outputs", "format", "command")} == {
        key: first[key] for key in ("inputs", "outputs", "format", "command")
    }


def test_a_bench_row_has_every_field(bbx: Any, in_nets_folder: Path, tmp_path: Path) -> None:
    made = bbx("export", "sample_nets:tiny", "--json", "-o", tmp_path / "net").document["artifact"]
    document = bbx("bench", made, "--runtime", "ort-cpu", "--threads", 1, "--json", "-o", tmp_path).document
    assert document["schema"] == "bbx/1"
    assert document["environment"]
    [row] = document["results"]
    assert {"subject", "runtime", "precision", "batch", "scenario", "verdict", "reasons", "parity"} <= set(
        row
    )
    assert {"median", "ci95", "mean", "min", "p90", "p95", "p99", "iqr"} <= set(row["latency_ns"])
    assert row["throughput_per_s"] > 0
    assert row["peak_bytes"] > 0
    assert (tmp_path / row["samples"]).is_file()


@pytest.mark.parametrize("command", ["", "models", "export", "build-trt", "bench", "doctor"])
def test_every_command_has_help(bbx: Any, command: str) -> None:
    answer = bbx(*command.split(), "--help")
    assert answer.code == 0
    assert answer.stdout.startswith(f"Usage: {f'bbx {command}'.strip()}")
    assert answer.stderr == ""


def test_the_version_and_the_help_of_bbx_alone(bbx: Any) -> None:
    assert bbx("--version").stdout.startswith("bbx 0.")
    assert (bbx().code, bbx().stdout) == (0, bbx("--help").stdout)


def test_models_are_listed_for_people_and_for_scripts(bbx: Any) -> None:
    listed = bbx("models", "--json", "--task", "classification").document
    names = {entry["name"] for entry in listed["models"]}
    assert {"resnet50", "vit_b_16", "efficientnet_lite1"} <= names
    shown = bbx("models").stdout.split()
    assert names <= set(shown)
    assert "Known: classification, detection" in bbx("models", "--task", "flying").error


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (1, "export resnet5O", "Nearest: "),
        (1, "export sample_nets:tinny", "Nearest: tiny"),
        (2, "export resnet18 -f onx", "'onnx', 'torchscript', 'pt2'. Type: bbx export --help"),
        (2, "export", "Missing argument"),
        (2, "exprot resnet18", "Did you mean 'export'?"),
        (2, "build-trt resnet18 --fp16 --bf16", "do not go together"),
        (2, "bench", "bbx bench --all"),
        (3, "export sample_nets:counting -f torchscript", "does not agree"),
        (5, "bench resnet18 --runtime tensorrt", "tensorrt"),
    ],
)
@pytest.mark.skipif(current_target() is not None, reason="this machine has the GPU whose absence is tested")
@pytest.mark.usefixtures("in_nets_folder")
def test_exit_codes(bbx: Any, tmp_path: Path, code: int, words: str, said: str) -> None:
    answer = bbx(*words.split(), "-o", tmp_path / "out")
    assert answer.code == code
    assert said in answer.error
    assert answer.stdout == ""
    document = bbx(*words.split(), "--json", "-o", tmp_path / "out").document
    assert document["schema"] == "bbx/1"
    assert document["error"]["exit_code"] == code
