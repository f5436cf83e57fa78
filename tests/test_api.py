"""bbx in Python: the verbs of the command line, with the same documents and errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bbx as package
from bbx.errors import BbxError, CheckFailed, ModelError, UnavailableError, UsageError
from bbx.exporter.engine_options import current_target
from bbx.making import command_line
from bbx.process import Event, Notice
from bbx.runners.ort import OrtRunner


def test_the_public_names_are_these() -> None:
    verbs = {"bench", "build", "build_engine", "export", "postprocess", "preprocess", "report"}
    verbs |= {"bisect", "compare", "evaluate", "parity", "predict", "quantize", "summary", "train"}
    assert set(package.__all__) == {"__version__", *verbs}
    assert dir(package) == sorted(package.__all__)
    assert all(callable(getattr(package, name)) for name in package.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        package.exprot  # noqa: B018 - looking it up is the test


def test_build_gives_a_module_with_what_is_known_of_it() -> None:
    model = package.build("timm:test_resnet", weights="random", image_size=64, num_classes=7)
    assert model.weights == "random"
    with torch.inference_mode():
        assert model.module(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    assert [spec.name for spec in (*model.inputs, *model.outputs)] == ["images", "logits"]


@pytest.mark.usefixtures("inline_tasks", "in_nets_folder")
def test_export_says_what_it_does_and_gives_the_document(tmp_path: Path) -> None:
    heard: list[Event | Notice] = []
    document = package.export("sample_nets:tiny", out=tmp_path, listener=heard.append, batch=2)
    stages = [event.stage for event in heard if isinstance(event, Event)]
    assert stages == ["build", "export", "verify"]
    assert document["parity"]["verdict"] == "pass"
    assert document["command"] == "bbx export sample_nets:tiny --batch 2"
    with OrtRunner(Path(document["artifact"])) as runner:
        assert runner.infer({"images": np.zeros((2, 3, 16, 16), np.float32)})["logits"].shape == (2, 10)


@pytest.mark.usefixtures("inline_tasks", "in_nets_folder")
def test_a_path_names_the_last_artefact_and_its_folder_holds_those_on_the_way(tmp_path: Path) -> None:
    package.export("sample_nets:tiny", precision="fp16", out=tmp_path / "mine.onnx")
    found = sorted(path.name for path in tmp_path.glob("*.onnx"))
    assert found == ["mine.onnx", "sample_nets-tiny.onnx"]


@pytest.mark.usefixtures("inline_tasks", "in_nets_folder")
def test_a_failed_check_carries_its_document(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed) as caught:
        package.export("sample_nets:counting", format="torchscript", out=tmp_path)
    assert caught.value.document is not None
    assert caught.value.document["parity"]["verdict"] == "fail"


@pytest.mark.usefixtures("inline_tasks", "in_nets_folder")
def test_an_engine_and_a_measurement(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    document = package.build_engine(
        "sample_nets:tiny",
        precision="fp16",
        flavor="rtx",
        targets=["sm_86"],
        profiles=["1,2,4"],
        out=tmp_path,
    )
    assert document["precision"]["verdict"] == "pass"
    assert document["command"] == (
        "bbx build-trt sample_nets:tiny --fp16 --flavor rtx --target sm_86 --profile 1,2,4"
    )


@pytest.mark.usefixtures("inline_tasks")
@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda out: package.export("resnet5", out=out), ModelError, "resnet50"),
        (lambda out: package.export("resnet50", batsh=3, out=out), UsageError, "no option 'batsh'"),
        (lambda out: package.export("resnet50", precision="int8", out=out), UsageError, "bbx quantize"),
        (lambda out: package.build_engine("resnet50", precision="int8", out=out), UsageError, "--calib"),
        (lambda out: package.export("resnet50", opset=5, weights="random", out=out), UsageError, "opset"),
        (lambda out: package.export(str(out / "no.onnx"), precision="fp16", out=out), BbxError, "no file"),
        (lambda out: package.build("resnet5"), ModelError, "resnet50"),
        (
            lambda out: package.quantize("resnet18", calib=[1], out=out),
            UsageError,
            "calib is a path here, and list",
        ),
        (
            lambda out: package.quantize("resnet18", calib=out, keep="fc", out=out),
            UsageError,
            "keep is a tuple",
        ),
        (
            lambda out: package.quantize("resnet18", calib=out, refine=True, out=out),
            UsageError,
            "and True was",
        ),
        (
            lambda out: package.quantize("a.onnx", calib=out, max_drop="1%", out=out),
            UsageError,
            "such as 0.005",
        ),
        (
            lambda out: package.quantize("a.onnx", calib=out, max_drops=0.1, out=out),
            UsageError,
            "no option 'max_d",
        ),
    ],
)
def test_errors_are_those_of_the_command(tmp_path: Path, call: Any, kind: type[BbxError], said: str) -> None:
    with pytest.raises(kind, match=said):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(current_target() is not None, reason="tensorrt can build here")
def test_what_this_machine_lacks_is_found_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        package.build_engine("resnet50", flavor="tensorrt", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"batch": None, "seed": 0, "precision": "fp32"}, "bbx export net"),
        ({"batch": 4, "precision": "fp16"}, "bbx export net --batch 4 --fp16"),
        ({"dynamic_size": True, "out": "a b"}, "bbx export net --dynamic-size --out 'a b'"),
        ({"target": ("sm_86", "sm_89")}, "bbx export net --target sm_86 --target sm_89"),
    ],
)
def test_a_command_line_leaves_out_what_is_by_default(options: dict[str, Any], wanted: str) -> None:
    assert command_line("export", "net", options, {"batch": None, "seed": 0, "out": "artifacts"}) == wanted


def test_the_caller_needs_no_torch(nets_folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys, bbx\n"
        f"document = bbx.export('sample_nets:tiny', format='torchscript', out={str(tmp_path)!r})\n"
        "assert document['parity']['verdict'] == 'pass'\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=nets_folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
