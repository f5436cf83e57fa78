from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bbx.benchmarks.conditions import Conditions
from bbx.benchmarks.plan import (
    Haste,
    Row,
    Subject,
    choose_runtimes,
    device_of,
    lacking,
    plan,
    subject_named,
)
from bbx.errors import ArtifactError, ModelError, UsageError
from bbx.models.spec import ModelSpec
from bbx.runners.registry import RUNTIMES, Availability

ALL = dict.fromkeys(RUNTIMES, Availability(True))
CPU_ONLY = ALL | {
    name: Availability(False, "There is no GPU.", "Buy one.") for name in ("ort-cuda", "tensorrt", "rtx")
}
RESNET = Subject("resnet18", spec=ModelSpec("resnet18"))


def keys(*subjects: Subject, runtimes: list[str], gpu: bool = False, **asked: Any) -> list[str]:
    return [row.key for row in plan(subjects, runtimes, Conditions(**asked), gpu=gpu).rows]


def test_a_machine_without_a_gpu_measures_fp32_on_what_it_has() -> None:
    chosen, left_out = choose_runtimes(None, CPU_ONLY)
    assert chosen == ["eager", "compile", "torchscript", "ort-cpu"]
    assert keys(RESNET, runtimes=chosen) == [
        "resnet18/eager/fp32/b1/single",
        "resnet18/compile/fp32/b1/single",
        "resnet18/torchscript/fp32/b1/single",
        "resnet18/ort-cpu/fp32/b1/single",
    ]
    assert {each.what: each.include for each in left_out} == {
        "openvino": "--runtime openvino",
        "pt2": "--runtime pt2",
        "ort-cuda": "Buy one.",
        "tensorrt": "Buy one.",
        "rtx": "Buy one.",
    }


def test_a_gpu_measures_all_that_it_computes_natively() -> None:
    assert keys(RESNET, runtimes=["rtx", "ort-cpu"], gpu=True) == [
        "resnet18/rtx/fp32/b1/single",
        "resnet18/rtx/fp16/b1/single",
        "resnet18/rtx/bf16/b1/single",
        "resnet18/ort-cpu/fp32/b1/single",
    ]


def test_only_a_quick_run_without_a_gpu_that_names_no_runtime_is_in_haste() -> None:
    hasty = {"quick": True, "everything": False, "gpu": False, "named": False}
    assert Haste.of(**hasty) == Haste.QUICK
    assert Haste.of(**hasty | {"everything": True}) == Haste.QUICK_ALL
    for calm in ({"quick": False}, {"gpu": True}, {"named": True}):
        assert Haste.of(**hasty | {"everything": True} | calm) == Haste.NONE


def test_runtimes_that_are_named_are_measured_whatever_the_defaults() -> None:
    asked = ["pt2", "compile", "fake", "pt2"]
    assert choose_runtimes(asked, CPU_ONLY) == (["pt2", "compile", "fake"], [])


def test_a_named_runtime_that_is_missing_is_planned_and_its_rows_know_the_remedy() -> None:
    chosen, left_out = choose_runtimes(["rtx", "ort-cpu"], CPU_ONLY)
    assert (chosen, left_out) == (["rtx", "ort-cpu"], [])
    absent = lacking(chosen, CPU_ONLY)
    assert {name: str(error) for name, error in absent.items()} == {"rtx": "rtx: There is no GPU. Buy one."}
    assert absent["rtx"].exit_code == 5


def test_a_runtime_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"'ort-cp'.*ort-cpu"):
        choose_runtimes(["ort-cp"], CPU_ONLY)


def test_rows_of_one_subject_and_runtime_stand_together() -> None:
    other = Subject("vgg11", spec=ModelSpec("vgg11"))
    found = keys(RESNET, other, runtimes=["eager", "ort-cpu"], precisions=("fp32", "fp16"), batches=(1, 8))
    assert len(found) == 16
    assert found[:4] == [f"resnet18/eager/{p}/b{b}/single" for p in ("fp32", "fp16") for b in (1, 8)]
    assert len(set(found)) == 16


@pytest.mark.parametrize(
    ("haste", "classifiers", "dense", "left_out"),
    [
        (Haste.NONE, ["eager", "compile", "torchscript"], ["eager", "compile", "torchscript"], {}),
        (
            Haste.QUICK,
            ["eager", "torchscript"],
            ["eager"],
            {"compile": "compile", "detectors and segmenters on torchscript": "torchscript"},
        ),
        (
            Haste.QUICK_ALL,
            ["eager"],
            [],
            {
                "compile": "compile",
                "torchscript": "torchscript",
                "detectors and segmenters on eager": "eager",
            },
        ),
    ],
)
def test_a_run_in_haste_leaves_out_what_takes_longest(
    haste: Haste, classifiers: list[str], dense: list[str], left_out: dict[str, str]
) -> None:
    detector = Subject("ssd300_vgg16", spec=ModelSpec("ssd300_vgg16"))
    runtimes = ["eager", "compile", "torchscript", "ort-cpu"]
    found = plan([RESNET, detector], runtimes, Conditions(), gpu=False, haste=haste)
    assert [(row.subject, row.runtime) for row in found.rows] == [
        *(("resnet18", runtime) for runtime in (*classifiers, "ort-cpu")),
        *(("ssd300_vgg16", runtime) for runtime in (*dense, "ort-cpu")),
    ]
    assert {each.what: each.include.removeprefix("--runtime ") for each in found.left_out} == left_out


def test_a_file_of_another_precision_than_asked_says_which_it_is() -> None:
    file = Subject("net.onnx", file=Path("net.onnx"), precision="fp16")
    found = plan([file, RESNET], ["ort-cpu"], Conditions(precisions=("fp32",)), gpu=False)
    assert [row.key for row in found.rows] == ["resnet18/ort-cpu/fp32/b1/single"]
    assert [(each.what, each.reason) for each in found.left_out] == [
        ("net.onnx in fp32", "It is a file in fp16.")
    ]


def test_a_precision_that_a_runtime_lacks_is_left_out_with_a_reason() -> None:
    found = plan([RESNET], ["torchscript", "ort-cpu"], Conditions(precisions=("fp16",)), gpu=False)
    assert [row.key for row in found.rows] == ["resnet18/ort-cpu/fp16/b1/single"]
    assert [(each.what, each.reason) for each in found.left_out] == [
        ("torchscript fp16", "bbx runs torchscript in fp32.")
    ]


def test_a_file_is_measured_where_its_format_runs(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"graph")
    (tmp_path / "net.engine").write_bytes(b"plan")
    graph = subject_named(str(tmp_path / "net.onnx"), {})
    engine = subject_named(str(tmp_path / "net.engine"), {})
    found = plan([graph, engine], ["eager", "ort-cpu", "rtx"], Conditions(precisions=("fp32",)), gpu=True)
    assert [(Path(row.subject).name, row.runtime) for row in found.rows] == [
        ("net.onnx", "ort-cpu"),
        ("net.onnx", "rtx"),
        ("net.engine", "rtx"),
    ]
    assert {each.include for each in found.left_out} == {"Name the model instead of the file."}


def test_a_file_of_another_precision_has_that_one_only() -> None:
    half = Subject("net.onnx", file=Path("net.onnx"), precision="fp16")
    assert keys(half, runtimes=["ort-cpu"]) == ["net.onnx/ort-cpu/fp16/b1/single"]
    assert keys(half, runtimes=["ort-cpu"], precisions=("fp32",)) == []


def test_a_subject_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"resnet19.*resnet18"):
        subject_named("resnet19", {})
    with pytest.raises(ArtifactError, match=r"no file nowhere\.onnx"):
        subject_named("nowhere.onnx", {})


def test_options_reach_the_model() -> None:
    subject = subject_named("resnet18", {"weights": "random", "num_classes": 7})
    assert subject.spec == ModelSpec("resnet18", weights="random", num_classes=7)


def test_the_command_measures_the_row_again() -> None:
    row = Row("resnet18", "ort-cpu", "fp16", 4, threads=2)
    command = row.command(profile="report", spec=ModelSpec("resnet18", weights="my file.pth", num_classes=7))
    assert command == (
        "bbx bench resnet18 --runtime ort-cpu --precision fp16 --batch 4 --profile report --threads 2 "
        "--num-classes 7 --weights 'my file.pth'"
    )


def test_file_names_of_rows_are_safe_and_do_not_meet() -> None:
    one, other = Row("a/b.onnx", "eager", "fp32", 1), Row("a-b.onnx", "eager", "fp32", 1)
    assert "/" not in one.stem
    assert one.stem != other.stem


@pytest.mark.parametrize(("runtime", "gpu", "device"), [("eager", True, "cuda"), ("ort-cpu", True, "cpu")])
def test_torch_follows_the_gpu_and_others_their_own_device(runtime: str, gpu: bool, device: str) -> None:
    assert device_of(runtime, gpu=gpu) == device
