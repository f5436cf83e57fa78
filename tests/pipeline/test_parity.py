"""Parity through the command line: what differs is kept under another name, what proves nothing is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bbx.artifact import read_manifest


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_what_differs_fails_and_leaves_the_good_one(
    bbx: Any, in_nets_folder: Path, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ("export", "sample_nets:fickle", "-f", format, "--json", "-o", tmp_path)
    good = bbx(*ask)
    assert (good.code, good.document["parity"]["verdict"]) == (0, "pass")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setenv("FICKLE", "1")
    bad = bbx(*ask)
    assert bad.code == 3
    assert bad.document["parity"]["verdict"] == "fail"
    assert bad.document["error"]["exit_code"] == 3
    failed = tmp_path / f"sample_nets-fickle.failed.{format}"
    assert bad.document["artifact"] == str(failed)
    for part in (str(failed), "Output 'logits' on ", "relative L2", "torch (sample_nets:fickle)"):
        assert part in bad.error
    manifest = read_manifest(failed)
    assert manifest is not None
    assert manifest.document["parity"]["verdict"] == "fail"
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    monkeypatch.delenv("FICKLE")
    assert bbx(*ask).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(before)


def test_a_module_that_remembers_fails(bbx: Any, in_nets_folder: Path, tmp_path: Path) -> None:
    answer = bbx("export", "sample_nets:counting", "-f", "torchscript", "-o", tmp_path)
    assert answer.code == 3
    assert answer.stdout == ""
    assert not (tmp_path / "sample_nets-counting.torchscript").exists()


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("zero", "all zero"),
        ("constant", "constant"),
        ("blind", "whatever goes in"),
        ("not_a_number", "not finite"),
    ],
)
def test_a_reference_that_proves_nothing_is_inconclusive(
    bbx: Any, in_nets_folder: Path, tmp_path: Path, factory: str, said: str
) -> None:
    answer = bbx("export", f"sample_nets:{factory}", "-f", "torchscript", "--json", "-o", tmp_path)
    assert answer.code == 0
    parity = answer.document["parity"]
    assert parity["verdict"] == "inconclusive"
    assert said in parity["reasons"][0]
    assert (tmp_path / f"sample_nets-{factory}.torchscript").exists()


def test_torchvisions_zeroed_vit_head_is_inconclusive(bbx: Any, in_nets_folder: Path, tmp_path: Path) -> None:
    answer = bbx("export", "sample_nets:vit", "-f", "torchscript", "-o", tmp_path)
    assert answer.code == 0
    assert "inconclusive: The reference's output 'logits' is all zero" in answer.stdout


def test_a_training_submodule_is_an_error(bbx: Any, in_nets_folder: Path, tmp_path: Path) -> None:
    answer = bbx("export", "sample_nets:stubborn", "-f", "torchscript", "-q", "-o", tmp_path)
    assert answer.code == 1
    assert "training mode" in answer.error
    assert list(tmp_path.iterdir()) == []


def test_an_overflow_between_two_nodes_is_seen_in_fp16(
    bbx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime on a CPU computes both nodes in FP32, where 65,504 is no limit."""
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20]> g (float[N,3,16,16] x) => (float[N,3,16,16] y) '
        "<float factor = {0.001}> { m = Conv(x, w) \n y = Mul(m, factor) }"
    )
    weight = np.full((3, 3, 1, 1), 5e4, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, str(tmp_path / "loud.onnx"))
    scanned = bbx("export", tmp_path / "loud.onnx", "--fp16", "-o", tmp_path, "--json")
    assert scanned.document["parity"]["verdict"] == "pass"
    assert scanned.document["kept"]
    monkeypatch.setattr("bbx.pipeline.typed.activation_ranges", lambda *arguments: {})
    blind = bbx("export", tmp_path / "loud.onnx", "--fp16", "-o", tmp_path, "--json", "--force")
    assert blind.code == 3
    assert "Output 'y'" in blind.error
