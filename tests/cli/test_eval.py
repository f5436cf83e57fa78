"""`bbx eval`: several artefacts on the same images, and data that cannot be judged by."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bbx.runners.registry import availability
from tests.evaluation.fitted import NAMES, checkpoint, write_crops
from tests.scenes.compose import CATEGORIES, coco_dataset, scenes

COUNT = 6


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that names every texture rightly."""
    return checkpoint(tmp_path_factory.mktemp("right") / "right.safetensors")


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that takes the first two textures for each other."""
    return checkpoint(tmp_path_factory.mktemp("wrong") / "wrong.safetensors", order=(1, 0, 2))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Class folders with a few crops of each texture."""
    return write_crops(tmp_path / "data", COUNT)


@pytest.fixture(scope="module")
def exported(right: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoint as an ONNX graph and as TorchScript."""
    from bbx.models.trained import named_spec
    from bbx.pipeline import ExportStep, ensure

    folder = tmp_path_factory.mktemp("exported")
    spec = named_spec(str(right), {})
    steps = {
        "onnx": ExportStep("bbx export", spec, "onnx", exporter="torchscript"),
        "torchscript": ExportStep("bbx export", spec, "torchscript"),
    }
    return {format: ensure(step, folder).path for format, step in steps.items()}


def test_side_by_side_on_every_runner(bbx: Any, right: Path, exported: dict[str, Path], data: Path) -> None:
    answer = bbx("eval", right, exported["onnx"], exported["torchscript"], "--data", data, "--json")
    assert answer.code == 0
    document = answer.document
    assert document["schema"] == "bbx/1"
    assert document["data"]["images"] == 3 * COUNT
    assert document["data"]["classes"] == sorted(NAMES)
    assert len(document["data"]["manifest_sha256"]) == 64
    assert [each["runtime"] for each in document["results"]] == ["eager", "ort-cpu", "torchscript"]
    for each in document["results"]:
        assert each["metrics"]["top1"] == 1.0
        assert each["images_per_s"] > 0
        assert [row["class"] for row in each["per_class"]] == list(NAMES)
    first, second, third = document["results"]
    assert (first["difference"], first["flips"]) == (None, None)
    for each in (second, third):
        assert each["difference"]["top1"] == {"value": 0.0, "ci95": [0.0, 0.0]}
        assert each["flips"] == {"of": 18, "right_to_wrong": 0, "wrong_to_right": 0, "wrong_to_wrong": 0}


def test_what_a_worse_one_loses_and_how_sure_that_is(bbx: Any, right: Path, wrong: Path, data: Path) -> None:
    answer = bbx("eval", right, wrong, "--data", data, "--json")
    assert answer.code == 0
    found = answer.document["results"][1]
    assert found["metrics"]["top1"] == pytest.approx(1 / 3)
    assert found["difference"]["top1"]["value"] == pytest.approx(-2 / 3)
    low, high = found["difference"]["top1"]["ci95"]
    assert -0.95 < low < -2 / 3 < high < -0.35
    assert found["flips"] == {"of": 18, "right_to_wrong": 12, "wrong_to_right": 0, "wrong_to_wrong": 0}
    again = bbx("eval", right, wrong, "--data", data, "--json").document
    assert again["results"][1]["difference"] == found["difference"]
    other = bbx("eval", right, wrong, "--data", data, "--json", "--bootstrap-seed", 5).document
    assert other["results"][1]["difference"] != found["difference"]


def test_a_gate_fails_with_3_and_shows_why(bbx: Any, right: Path, wrong: Path, data: Path) -> None:
    answer = bbx("eval", right, wrong, "--data", data, "--max-drop", "1%")
    assert answer.code == 3
    assert "top1 drops by more than 1.00%" in answer.error
    assert "wrong.safetensors on eager (66.67%)" in answer.error
    assert "33.33%" in answer.stdout
    as_json = bbx("eval", right, wrong, "--data", data, "--max-drop", "1%", "--json")
    assert as_json.code == 3
    assert as_json.document["gate"]["verdict"] == "fail"
    assert bbx("eval", wrong, right, "--data", data, "--max-drop", "1%").code == 0


def test_the_report_and_the_confusion_are_files(bbx: Any, wrong: Path, data: Path, tmp_path: Path) -> None:
    answer = bbx("eval", wrong, "--data", data, "-o", tmp_path / "report")
    assert answer.code == 0
    report = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert report["results"][0]["metrics"]["top1"] == pytest.approx(1 / 3)
    [table] = (tmp_path / "report").glob("confusion-*.csv")
    assert report["files"] == [str(tmp_path / "report" / "evaluation.json"), str(table)]
    with table.open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["class \\ answer", *NAMES]
    assert rows[1:] == [["brick", "0", "6", "0"], ["grass", "6", "0", "0"], ["gravel", "0", "0", "6"]]


def test_classes_are_matched_by_name(bbx: Any, right: Path, tmp_path: Path) -> None:
    """Some of the classes only, called with other capitals."""
    folder = write_crops(
        tmp_path / "data", COUNT, names={"gravel": "A Gravel", "brick": "BRICK", "grass": "Grass"}
    )
    (folder / "A Gravel").rename(folder / "x").joinpath("000.png").unlink()
    shutil.rmtree(folder / "x")
    answer = bbx("eval", right, "--data", folder, "--json")
    assert answer.code == 0
    assert answer.document["results"][0]["metrics"]["top1"] == 1.0
    assert "warning" not in answer.stderr


def test_unknown_names_are_taken_in_order_and_said(bbx: Any, right: Path, tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "data", COUNT, names={"brick": "1", "grass": "2", "gravel": "3"})
    answer = bbx("eval", right, "--data", folder, "--json")
    assert answer.document["results"][0]["metrics"]["top1"] == 1.0
    assert "taken in the data's order (1, 2, 3): it calls them brick, grass, gravel" in answer.stderr


def test_names_may_be_given_in_a_file(bbx: Any, right: Path, tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "data", COUNT, names={"brick": "z", "grass": "y", "gravel": "x"})
    (tmp_path / "names.txt").write_text("z\ny\nx\n")
    answer = bbx("eval", right, "--data", folder, "--classes", tmp_path / "names.txt", "--json")
    assert answer.document["results"][0]["metrics"]["top1"] == 1.0
    (tmp_path / "names.txt").write_text("z\ny\n")
    answer = bbx("eval", right, "--data", folder, "--classes", tmp_path / "names.txt")
    assert (answer.code, answer.error) == (1, "--classes names 2 classes, and the network has 3.")


def test_classes_that_do_not_match_are_listed(bbx: Any, right: Path, tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "data", 1, names={"gravel": "sand"})
    answer = bbx("eval", right, "--data", folder)
    assert answer.code == 1
    assert (
        "The data has 3 classes, of which sand is none of the network's 3 (brick, grass, gravel)"
        in answer.error
    )
    assert "--classes FILE" in answer.error


def test_imagenets_folders_are_known(bbx: Any, tmp_path: Path) -> None:
    """Two of a thousand classes, by their WordNet numbers: tench and lesser panda."""
    write_crops(tmp_path / "data", 1, names={"brick": "n01440764", "grass": "n02509815"})
    shutil.rmtree(tmp_path / "data" / "gravel")
    options = ("--weights", "random", "--image-size", "32", "--data", tmp_path / "data", "--json")
    answer = bbx("eval", "resnet18", *options)
    assert [row["number"] for row in answer.document["results"][0]["per_class"]] == [0, 387]


def test_the_test_part_is_judged_by_and_never_the_train_part(bbx: Any, right: Path, tmp_path: Path) -> None:
    for part, count in (("train", 1), ("val", 2), ("test", 3)):
        write_crops(tmp_path / "data" / part, count)
    run = ("eval", right, "--data", tmp_path / "data", "--json")
    assert bbx(*run).document["data"] | {"split": "test", "images": 9} == bbx(*run).document["data"]
    assert bbx(*run, "--split", "train").document["data"]["images"] == 3
    shutil.rmtree(tmp_path / "data" / "test")
    assert bbx(*run).document["data"]["split"] == "val"
    shutil.rmtree(tmp_path / "data" / "val")
    answer = bbx("eval", right, "--data", tmp_path / "data")
    assert answer.code == 2
    assert "has no part to judge by: it has train. Type --split train" in answer.error


def test_a_broken_image_is_named_and_left_out(bbx: Any, right: Path, tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "data", 34)
    (folder / "grass" / "007.png").write_text("this is no picture")
    answer = bbx("eval", right, "--data", folder, "--json")
    assert answer.code == 0
    assert answer.document["data"]["images"] == 101
    assert [each["image"] for each in answer.document["data"]["skipped"]] == ["grass/007.png"]
    assert "Left out:" in answer.stderr
    (folder / "brick" / "001.png").write_bytes(b"")
    answer = bbx("eval", right, "--data", folder)
    assert answer.code == 1
    assert "2 images of 102 cannot be used, and at most 1 % may be" in answer.error
    assert "grass/007.png" in answer.error


def test_data_that_cannot_be_judged_by(bbx: Any, right: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "flat" / "0.png")
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "val.json").write_text('{"images": []}')
    for name, wanted in (
        ("empty", "empty has no class folders"),
        ("flat", "so that its images have no labels"),
        ("coco", "coco is no data for classification"),
        ("nothing", "There is no data"),
    ):
        answer = bbx("eval", right, "--data", tmp_path / name)
        assert answer.code == 1, name
        assert wanted in answer.error


def test_what_is_named_wrongly(bbx: Any, right: Path, exported: dict[str, Path], data: Path) -> None:
    for arguments, code, wanted in (
        ((right.with_name("none.onnx"),), 1, "There is no file"),
        ((right.with_name("none.safetensors"),), 1, "There is no checkpoint"),
        (("resnet81",), 1, "Nearest: resnet18"),
        ((right, "--runtime", "ort-cpux"), 2, "There is no runtime 'ort-cpux'"),
        ((right, "--runtime", "ort-cpu"), 2, "ort-cpu takes a file in the format onnx, and none was named"),
    ):
        answer = bbx("eval", *arguments, "--data", data)
        assert answer.code == code
        assert wanted in answer.error


@pytest.mark.skipif(availability()["ort-cuda"].ok, reason="this machine has a GPU")
def test_what_cannot_run_here_is_5(bbx: Any, exported: dict[str, Path], data: Path, tmp_path: Path) -> None:
    answer = bbx("eval", exported["onnx"], "--data", data, "--runtime", "ort-cuda")
    assert answer.code == 5
    assert "cannot run here: ort-cuda" in answer.error
    (tmp_path / "net.engine").write_bytes(b"")
    assert bbx("eval", tmp_path / "net.engine", "--data", data).code == 5


def test_a_graph_without_a_manifest_says_nothing_of_images(
    bbx: Any, exported: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.onnx"
    bare.write_bytes(exported["onnx"].read_bytes())
    answer = bbx("eval", bare, "--data", data)
    assert answer.code == 1
    assert "Nothing says how images become the input" in answer.error


def test_a_network_without_classes_is_refused(bbx: Any, data: Path) -> None:
    options = ("--head", "none", "--weights", "random", "--image-size", "32")
    answer = bbx("eval", "resnet18", *options, "--data", data)
    assert (answer.code, "gives features and no classes" in answer.error) == (1, True)


def test_a_detector_on_scenes(bbx: Any, tmp_path: Path) -> None:
    """The detector that was trained on scenes finds digits in others."""
    composed = scenes(8, 0, "test", 320)
    document = coco_dataset(composed)
    (tmp_path / "images").mkdir()
    for about, scene in zip(document["images"], composed, strict=True):
        about["file_name"] = f"{about['id']}.png"
        Image.fromarray(scene.image).save(tmp_path / "images" / about["file_name"])
    (tmp_path / "val.json").write_text(json.dumps(document))
    (tmp_path / "names.txt").write_text("\n".join(["background", *CATEGORIES]))
    weights = Path(__file__).parents[1] / "scenes" / "ssdlite.safetensors"
    options = ("--num-classes", "11", "--weights", weights, "--classes", tmp_path / "names.txt")
    answer = bbx("eval", "ssdlite320_mobilenet_v3_large", *options, "--data", tmp_path, "--json")
    assert answer.code == 0
    [found] = answer.document["results"]
    assert answer.document["metric"] == "mAP"
    assert 0.6 < found["metrics"]["mAP50"] < 1.0
    assert sum(row["objects"] for row in found["per_class"]) == sum(len(scene.labels) for scene in composed)
    (tmp_path / "val.json").write_text(json.dumps(document | {"annotations": []}))
    answer = bbx("eval", "ssdlite320_mobilenet_v3_large", *options, "--data", tmp_path, "--max-drop", "1%")
    assert (answer.code, "there is no object in its images" in answer.error) == (1, True)
