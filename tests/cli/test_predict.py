"""`bbx predict`: the same answer on every runner, for whatever cameras write; answers drawn on pictures."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bbx.evaluation.drawing import colour_of
from bbx.models.trained import named_spec
from bbx.pipeline import ExportStep, ensure
from tests.conftest import BBX
from tests.evaluation.fitted import NAMES, checkpoint, crops
from tests.scenes.compose import CATEGORIES, scenes

SCENES = Path(__file__).parents[1] / "scenes" / "ssdlite.safetensors"
DETECTOR = ("ssdlite320_mobilenet_v3_large", "--num-classes", "11", "--weights", SCENES)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that knows three textures."""
    return checkpoint(tmp_path_factory.mktemp("network") / "textures.safetensors")


@pytest.fixture
def grass(tmp_path: Path) -> Path:
    """A picture."""
    [crop] = crops("grass", 1, seed=7)
    crop.save(tmp_path / "grass.png")
    return tmp_path / "grass.png"


def test_the_same_answer_on_every_runner(bbx: Any, network: Path, grass: Path, tmp_path: Path) -> None:
    spec = named_spec(str(network), {})
    subjects = [network]
    for step in (
        ExportStep("bbx export", spec, "onnx", exporter="torchscript"),
        ExportStep("bbx export", spec, "torchscript"),
    ):
        subjects.append(ensure(step, tmp_path / "artefacts").path)
    documents = [bbx("predict", subject, grass, "--json").document for subject in subjects]
    assert [each["runtime"] for each in documents] == ["eager", "ort-cpu", "torchscript"]
    answers = [each["images"][0]["labels"] for each in documents]
    assert answers[0][0]["class"] == "grass"
    assert sum(each["probability"] for each in answers[0]) == pytest.approx(1.0)
    for other in answers[1:]:
        assert [each["label"] for each in other] == [each["label"] for each in answers[0]]
        for ours, theirs in zip(answers[0], other, strict=True):
            assert theirs["probability"] == pytest.approx(ours["probability"], abs=1e-5)


def test_what_cameras_write_is_answered_alike(bbx: Any, network: Path, tmp_path: Path) -> None:
    """On its side with an EXIF note; with an alpha channel; and a grey picture in 8 bits, and in 16."""
    [crop] = crops("brick", 1, seed=7)
    crop.save(tmp_path / "plain.png")
    on_its_side = Image.Exif()
    on_its_side[0x0112] = 6  # to be turned by 90° clockwise
    crop.rotate(90, expand=True).save(tmp_path / "turned.png", exif=on_its_side)
    crop.convert("RGBA").save(tmp_path / "alpha.png")
    grey = np.asarray(crop.convert("L"))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    names = ("plain", "turned", "alpha", "grey", "deep")
    images = bbx("predict", network, *(tmp_path / f"{name}.png" for name in names), "--json").document[
        "images"
    ]
    found = {name: image["labels"] for name, image in zip(names, images, strict=True)}
    assert found["plain"][0]["class"] == "brick"
    assert found["turned"] == found["alpha"] == found["plain"]
    assert found["deep"] == found["grey"]
    assert found["grey"] != found["plain"]


def test_many_images_in_folders_and_batches(bbx: Any, network: Path, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number, crop in enumerate(crops(name, 3, seed=2)):
            crop.save(tmp_path / "pictures" / name / f"{number}.png")
    run = ("predict", network, tmp_path / "pictures", "--json", "--top", 1)
    one, four = (bbx(*run, "--batch", batch).document["images"] for batch in (1, 4))
    assert [Path(each["image"]).parent.name for each in four] == [name for name in NAMES for _ in range(3)]
    assert [each["labels"][0]["class"] for each in four] == [name for name in NAMES for _ in range(3)]
    for ours, theirs in zip(one, four, strict=True):
        assert len(ours["labels"]) == 1
        assert theirs["labels"][0]["probability"] == pytest.approx(ours["labels"][0]["probability"], abs=1e-5)


def test_one_broken_image_does_not_hide_the_others(bbx: Any, network: Path, grass: Path) -> None:
    broken = grass.with_name("broken.jpg")
    broken.write_text("no picture")
    answer = bbx("predict", network, broken, grass, "--json")
    assert answer.code == 1
    first, second = answer.document["images"]
    assert "cannot be decoded as an image" in first["error"]
    assert second["labels"][0]["class"] == "grass"
    assert "warning: " in answer.stderr
    alone = bbx("predict", network, broken)
    assert alone.code == 1
    assert "broken.jpg cannot be decoded as an image" in alone.error


def test_an_image_on_standard_input(network: Path, grass: Path) -> None:
    def piped(given: bytes) -> subprocess.CompletedProcess[bytes]:
        words = [BBX, "predict", network, "-", "--json"]
        return subprocess.run(words, input=given, capture_output=True, check=False, timeout=300)

    done = piped(grass.read_bytes())
    assert done.returncode == 0
    [image] = json.loads(done.stdout)["images"]
    assert (image["image"], image["labels"][0]["class"]) == ("standard input", "grass")
    assert b"There is no image on standard input" in piped(b"").stderr


def test_every_picture_has_a_drawing_of_its_own(bbx: Any, network: Path, grass: Path, tmp_path: Path) -> None:
    pictures = [tmp_path / name for name in ("a.png", "a.bmp", "a-2.png", "a.tiff")]
    for picture in pictures:
        Image.open(grass).save(picture)
    answer = bbx("predict", network, *pictures, "-o", tmp_path / "drawn", "--json")
    drawings = [Path(each["drawn"]).name for each in answer.document["images"]]
    assert drawings == [f"{stem}.predicted.png" for stem in ("a", "a-3", "a-2", "a-4")]


def test_the_label_is_drawn_on_the_picture(bbx: Any, network: Path, grass: Path, tmp_path: Path) -> None:
    answer = bbx("predict", network, grass, grass, "-o", tmp_path / "drawn", "--json")
    files = [Path(each["drawn"]) for each in answer.document["images"]]
    assert files == [tmp_path / "drawn" / "grass.predicted.png", tmp_path / "drawn" / "grass-2.predicted.png"]
    picture = Image.open(files[0])
    assert picture.size == (320, 320)  # a small picture is enlarged until letters fit
    enlarged = Image.open(grass).resize((320, 320), Image.Resampling.NEAREST)
    changed = np.any(np.asarray(picture) != np.asarray(enlarged), axis=2)
    assert changed[:45, :80].mean() > 0.9
    assert not changed[120:].any()


def test_boxes_are_drawn_where_they_are_said_to_be(bbx: Any, tmp_path: Path) -> None:
    """In a picture that is wider than the network's input, so that boxes must be brought back."""
    [scene] = scenes(1, 0, "test", 320)
    wide = Image.new("RGB", (640, 320), (90, 90, 90))
    wide.paste(Image.fromarray(scene.image), (320, 0))
    wide.resize((1280, 640)).save(tmp_path / "wide.png")
    (tmp_path / "names.txt").write_text("\n".join(["background", *CATEGORIES]))
    options = ("--classes", tmp_path / "names.txt", "-o", tmp_path / "drawn", "--min-score", 0.3, "--json")
    answer = bbx("predict", *DETECTOR, tmp_path / "wide.png", *options)
    assert answer.code == 0
    [image] = answer.document["images"]
    assert (image["width"], image["height"]) == (1280, 640)
    found = image["detections"]
    assert found
    assert all(each["score"] >= 0.3 for each in found)
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
    truth = scene.boxes * 2 + [640, 0, 640, 0]
    best = found[0]
    assert best["class"] in CATEGORIES
    assert np.abs(truth - best["box"]).max(axis=1).min() < 40
    picture = np.asarray(Image.open(image["drawn"]))
    x1, _, x2, y2 = (round(value) for value in best["box"])
    for x in range(x1 + 6, x2 - 6, 8):
        assert tuple(picture[y2 - 1, x]) == colour_of(best["label"])


def test_a_label_map_says_what_the_document_says(bbx: Any, grass: Path, tmp_path: Path) -> None:
    options = ("--num-classes", 4, "--weights", "random", "--image-size", 64, "-o", tmp_path, "--json")
    [image] = bbx("predict", "lraspp_mobilenet_v3_large", grass, *options).document["images"]
    labels = np.asarray(Image.open(image["label_map"]))
    assert labels.shape == (64, 64)
    assert sum(each["share"] for each in image["areas"]) == pytest.approx(1.0)
    for each in image["areas"]:
        assert (labels == each["label"]).mean() == pytest.approx(each["share"])
        assert each["class"] == f"class {each['label']}"
    # What it predicts is what `bbx eval` judges: its own label map is without fault.
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "masks").mkdir()
    shutil.copy(grass, tmp_path / "data" / "images")
    shutil.copy(image["label_map"], tmp_path / "data" / "masks" / "grass.png")
    judged = bbx("eval", "lraspp_mobilenet_v3_large", *options[:6], "--data", tmp_path / "data", "--json")
    assert judged.code == 0, judged.stderr
    assert judged.document["results"][0]["metrics"] == {"mIoU": 1.0, "pixel_accuracy": 1.0}


def test_what_is_named_wrongly(bbx: Any, network: Path, grass: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "names.txt").write_text("only one")
    for arguments, code, wanted in (
        ((tmp_path / "none.png",), 1, "There is no image"),
        ((tmp_path / "empty",), 1, "holds no image files"),
        ((grass, "--classes", tmp_path / "names.txt"), 1, "1 classes are named, and the network has 3"),
        ((grass, "--runtime", "ort-cpu"), 2, "ort-cpu takes a file in the format onnx"),
        ((), 2, "Missing argument 'IMAGE...'"),
    ):
        answer = bbx("predict", network, *arguments)
        assert answer.code == code
        assert wanted in answer.error


def test_text_for_people(bbx: Any, network: Path, grass: Path) -> None:
    answer = bbx("predict", network, grass, "--top", 1)
    first, second = answer.stdout.splitlines()
    assert first == f"{grass}  64 × 64"
    assert second.endswith("%  grass")


def test_bytes_and_paths_in_python(network: Path, grass: Path, inline_tasks: None) -> None:
    from bbx import predict

    stream = io.BytesIO()
    Image.open(grass).save(stream, "BMP")
    document = predict(network, [stream.getvalue(), grass])
    assert document["images"][0]["labels"] == document["images"][1]["labels"]
