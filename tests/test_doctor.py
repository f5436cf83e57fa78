from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bbx import doctor, lazy
from bbx.errors import BbxError, UnavailableError
from bbx.process import run_task
from bbx.runners.registry import RUNTIMES


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return doctor.examine()


def test_the_document_is_plain_json_of_this_schema(document: dict[str, Any]) -> None:
    assert json.loads(json.dumps(document)) == document
    assert document["schema"] == "bbx/1"
    assert document["python"]["version"].startswith("3.")
    assert document["platform"]["usable_cpus"] >= 1


def test_every_library_has_a_version_and_loads(document: dict[str, Any]) -> None:
    for name, found in document["libraries"].items():
        if name not in doctor.OPTIONAL:
            assert found["ok"], (name, found["reason"])
        assert found["ok"] <= (found["version"] is not None), name
    assert document["libraries"]["torch"]["version"] == lazy.version("torch")
    assert {"torchvision", "onnxruntime", "tensorrt_rtx"} <= document["libraries"].keys()


def test_every_finding_that_is_not_ok_has_a_reason_and_a_fix(document: dict[str, Any]) -> None:
    findings = [document["gpus"], document["compiler"]]
    for group in ("libraries", "runtimes", "flavors", "folders"):
        findings += document[group].values()
    for finding in findings:
        assert finding["ok"] == (finding["reason"] == ""), finding
        assert finding["ok"] == (finding["fix"] == ""), finding


def test_runtimes_and_flavors_are_all_there(document: dict[str, Any]) -> None:
    assert list(document["runtimes"]) == list(RUNTIMES)
    assert document["runtimes"]["ort-cpu"]["ok"]
    assert document["runtimes"]["rtx"]["ok"] <= document["gpus"]["ok"]
    assert set(document["flavors"]) == {"tensorrt", "rtx"}


def test_rtx_really_builds_here(document: dict[str, Any]) -> None:
    rtx = document["flavors"]["rtx"]
    assert rtx["ok"], rtx["reason"]
    assert "sm_86" in rtx["targets"]
    assert "sm_90" not in rtx["targets"]


def test_libraries_that_do_not_work_are_told_from_those_that_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bbx_broken.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (tmp_path / "bbx_crash.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    found = doctor._libraries(("bbx_broken", "safetensors", "bbx_crash", "bbx_absent"))
    assert found["safetensors"]["ok"]
    assert "nms does not exist" in found["bbx_broken"]["reason"]
    assert "SIGSEGV" in found["bbx_crash"]["reason"]
    assert found["bbx_absent"]["reason"] == "bbx_absent is not installed."
    for name in ("bbx_broken", "bbx_crash", "bbx_absent"):
        assert found[name]["fix"] == f"Type: pip install {name}"
        assert "\n" not in found[name]["reason"]


def test_a_runtime_falls_with_its_library() -> None:
    fine = {"ok": True, "reason": "", "fix": ""}
    libraries = {name: fine for group in doctor._GROUPS for name in group}
    libraries["onnxruntime"] = {"ok": False, "reason": "it crashed.", "fix": "Type: mend"}
    found = doctor._runtimes(libraries)
    assert found["ort-cpu"]["reason"] == "it crashed."
    assert found["ort-cpu"]["fix"] == "Type: mend"
    assert found["eager"]["ok"]


def test_a_hidden_gpu_and_a_missing_compiler_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "CUDA_VISIBLE_DEVICES" in doctor._gpus()["reason"]
    assert "no-such-compiler" in doctor._compiler()["reason"]


def test_a_folder_that_cannot_be_made_and_a_full_disk_are_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    assert "cannot be written" in doctor._folder(blocker / "below")["reason"]
    assert doctor._folder(tmp_path / "new")["ok"]
    monkeypatch.setattr(doctor, "_LOW_DISK_BYTES", 2**62)
    assert "GiB left" in doctor._folder(tmp_path / "new")["reason"]


def test_problems_are_what_stops_bbx_and_not_a_missing_gpu(document: dict[str, Any]) -> None:
    assert not any("gpu" in problem["what"].lower() for problem in document["problems"])
    broken = json.loads(json.dumps(document))
    broken["libraries"]["onnx"] |= {"ok": False, "reason": "r", "fix": "f"}
    broken["libraries"]["tensorrt"] |= {"version": None, "ok": False, "reason": "r", "fix": "f"}
    new = [problem for problem in doctor._problems(broken) if problem not in document["problems"]]
    assert new == [{"what": "library onnx", "reason": "r", "fix": "f"}]


def test_a_flavor_that_is_not_installed_says_so() -> None:
    if lazy.installed("tensorrt"):
        pytest.skip("tensorrt is installed here")
    with pytest.raises(UnavailableError, match="tensorrt is not installed") as caught:
        run_task("bbx.doctor:flavor_task", {"flavor": "tensorrt"})
    assert isinstance(caught.value, BbxError)
    assert "bbx[tensorrt]" in caught.value.hint
