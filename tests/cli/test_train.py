"""`bbx train` as people type it: one line for each mistake, kills that lose nothing, several processes."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

from bbx.models.trained import read_trained
from tests.training.digits import write_digits
from tests.training.scene_files import write_coco, write_masks

BBX = Path(sys.executable).with_name("bbx")
TINY = "sample_nets:tiny"
QUICK = ("--epochs", 3, "--batch-size", 16, "--augment", "light", "--workers", 0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of all ten digits, twelve images each."""
    return write_digits(tmp_path_factory.mktemp("digits") / "digits", range(10), most=12)


@pytest.fixture
def ask(bbx: Any, in_nets_folder: Path, digits: Path, tmp_path: Path) -> Callable[..., Any]:
    """`bbx train` in this process, into `tmp_path/run`."""

    def run(*words: Any, model: str = TINY, data: Any = digits) -> Any:
        return bbx("train", model, "--data", data, *QUICK, *words, "-o", tmp_path / "run")

    return run


def test_the_document_and_the_log(ask: Any, tmp_path: Path, digits: Path) -> None:
    answer = ask("--json", "-q")
    assert (answer.code, answer.stderr) == (0, "")
    document = answer.document
    assert document["schema"] == "bbx/1"
    assert document["checkpoint"] == str(tmp_path / "run" / "best.safetensors")
    assert (document["model"], document["task"]) == (TINY, "classification")
    assert document["classes"] == list("0123456789")
    assert [epoch["epoch"] for epoch in document["epochs"]] == [1, 2, 3]
    for epoch in document["epochs"]:
        assert epoch["train_loss"] > 0
        assert epoch["val_loss"] > 0
        assert epoch["scores"]["top1"] == epoch["value"]
    assert set(document["best"]) == {"epoch", "metric", "value"}
    assert document["data"]["skipped"] == {}
    assert len(document["data"]["manifest_sha256"]) == 64
    assert document["seconds"] > 0
    assert document["command"].startswith(f"bbx train {TINY} --data {digits} --epochs 3")
    assert "--workers" not in document["command"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines].count("epoch") == 3
    assert [line["step"] for line in lines if line["kind"] == "steps"] == [10]


def test_without_json_a_person_reads_it(ask: Any, tmp_path: Path) -> None:
    answer = ask()
    assert answer.stdout.startswith(f"{tmp_path}/run/best.safetensors  (sha256 ")
    words = {line.split()[0] for line in answer.stdout.splitlines()[1:]}
    assert {"best", "loss", "classes", "data", "learnt", "stopped"} <= words
    assert "epoch 2 of 3: top1 " in answer.stderr


def test_a_checkpoint_is_a_model_for_every_command(bbx: Any, tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", [3, 8], most=8)
    run = tmp_path / "runs" / "net"
    words = ("--image-size", 32, "--weights", "random", "--epochs", 1, "--workers", 0, "-q")
    assert bbx("train", "timm:test_resnet", "--data", data, *words, "-o", run).code == 0
    best = run / "best.safetensors"
    exported = bbx("export", best, "--json", "-q", "-o", tmp_path / "out")
    assert exported.code == 0, exported.stderr
    document = exported.document
    assert document["artifact"] == str(tmp_path / "out" / "timm-test_resnet.onnx")
    assert document["weights"]["path"] == str(best)
    assert document["inputs"][0]["shape"] == [None, 3, 32, 32]
    assert document["outputs"][0]["shape"] == [None, 2]
    manifest = json.loads((tmp_path / "out" / "timm-test_resnet.onnx.json").read_text())
    assert manifest["postprocess"]["classes"] == ["3", "8"]
    assert bbx("export", best, "--json", "-q", "-o", tmp_path / "out").document["reused"]
    bytes_in = bbx("export", best, "--input", "uint8", "--json", "-q", "-o", tmp_path / "bytes").document
    assert bytes_in["inputs"][0]["shape"] == [None, 32, 32, 3]


def test_options_that_contradict_a_checkpoint(bbx: Any, tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", [3, 8], most=2)
    how = ("--image-size", 32, "--weights", "random", "--epochs", 1, "--workers", 0, "--batch-size", 2, "-q")
    run = tmp_path / "run"
    assert bbx("train", "timm:test_resnet", "--data", data, *how, "-o", run).code == 0
    for words, said in (
        (("--num-classes", 3), "was made with --num-classes 2, and --num-classes 3 was asked."),
        (("--weights", "random"), "brings its weights, and --weights random was asked."),
    ):
        answer = bbx("export", run / "best.safetensors", *words, "-q", "-o", tmp_path)
        assert (answer.code, said in answer.error) == (2, True), answer.stderr


def test_a_file_of_tensors_decides_on_no_code(ask: Any, bbx: Any, tmp_path: Path) -> None:
    assert ask("-q").code == 0
    best = tmp_path / "run" / "best.safetensors"
    answer = bbx("export", best, "-o", tmp_path)
    assert answer.code == 1
    assert answer.error.endswith(f"Name that: {TINY} --weights {best}")
    named = bbx("export", TINY, "--weights", best, "-f", "torchscript", "-q", "-o", tmp_path)
    assert named.code == 0
    manifest = json.loads((tmp_path / "sample_nets-tiny.torchscript.json").read_text())
    assert manifest["postprocess"]["classes"] == list("0123456789")


# --- mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (2, ("--epochs", 0), "--epochs must be at least 1, and is 0."),
        (2, ("--lr", -1), "--lr must be above 0, and is -1."),
        (2, ("--label-smoothing", 1), "--label-smoothing must be at least 0 and below 1"),
        (2, ("--batch-size", 1), "A batch of one image has no statistics"),
        (2, ("--warmup", 3), "--warmup 3 leaves nothing of 3 epochs."),
        (2, ("--freeze-until", "stem", "--unfreeze", 1), "does not go with"),
        (2, ("--layer-decay", 0.5, "--backbone-lr-scale", 0.1), "does not go with"),
        (2, ("--resume", "--force"), "--resume and --force do not go together."),
        (2, ("--head", "none"), "--head none has no classes to learn."),
        (2, ("--schedule", "cosin"), "cosine"),
        (2, ("--optimizer", "adamx"), "--optimizer adamx needs a learning rate."),
        (2, ("--optimizer", "adamx", "--lr", 0.1), "There is no optimizer 'adamx'. Nearest: "),
        (2, ("--val", 1.5), "--val 1.5 is no share of the data."),
        (2, ("--val", "dev"), "--val dev is no part of the data and no path"),
        (2, ("--unfreeze", 9), "has 2 blocks below its head, and --unfreeze 9 was asked."),
        (1, ("--freeze-until", "sten"), "The backbone has no block 'sten'. Nearest: stem."),
        (2, ("--device", "tpu"), "There is no device 'tpu'."),
        (5, ("--device", "cuda:99"), "GPUs"),
    ],
)
def test_one_line_for_each_mistake(ask: Any, code: int, words: tuple[Any, ...], said: str) -> None:
    answer = ask("-q", *words)
    assert (answer.code, answer.stderr.count("\n")) == (code, 1), answer.stderr
    assert said in answer.error


def test_a_class_with_one_image(ask: Any, tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", [0, 1], most=5)
    for path in sorted((data / "1").iterdir())[1:]:
        path.unlink()
    answer = ask("-q", data=data)
    assert (answer.code, answer.stderr.count("\n")) == (1, 1)
    assert answer.error == (
        f"{data}: 1 has fewer than 2 images. A class needs one to learn from and one to judge by."
    )
    assert not (tmp_path / "run").exists()


def test_one_class_and_no_data(ask: Any, tmp_path: Path) -> None:
    only = write_digits(tmp_path / "data", [4], most=5)
    assert "one class, 4: there is nothing to tell apart" in ask("-q", data=only).error
    missing = ask("-q", data=tmp_path / "nowhere")
    assert (missing.code, "There is no data" in missing.error) == (1, True)


def test_labels_out_of_range(bbx: Any, tmp_path: Path) -> None:
    how = ("--epochs", 1, "--weights", "random", "--workers", 0, "-q", "-o", tmp_path / "run")
    coco = write_coco(tmp_path, 3, "train", side=64)
    document = json.loads(coco.read_text())
    document["annotations"][0]["category_id"] = 99
    coco.write_text(json.dumps(document))
    boxes = bbx("train", "ssdlite320_mobilenet_v3_large", "--data", coco, *how)
    assert (boxes.code, "category 99" in boxes.error) == (1, True), boxes.stderr
    masks = write_masks(tmp_path / "masks", 4, "train", side=64)
    Image.new("L", (64, 64), 40).save(masks / "masks" / "2.png")
    pixels = bbx("train", "lraspp_mobilenet_v3_large", "--image-size", 64, "--data", masks, *how)
    assert (pixels.code, pixels.stderr.count("\n")) == (1, 1), pixels.stderr
    assert "2.png" in pixels.error
    assert "40" in pixels.error


def test_a_loss_that_is_no_number(ask: Any, tmp_path: Path) -> None:
    answer = ask("-q", "--optimizer", "sgd", "--lr", 1e30, "--warmup", 0)
    assert (answer.code, answer.stderr.count("\n")) == (1, 1), answer.stderr
    assert answer.error.startswith("The loss became ")
    assert "in epoch 1, batch " in answer.error
    assert answer.error.endswith("Try --lr 1e+29, with --force or another --out.")
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_another_run_in_the_folder(ask: Any, tmp_path: Path) -> None:
    assert ask("-q").code == 0
    taken = ask("-q")
    assert (taken.code, "--resume" in taken.error, "--force" in taken.error) == (1, True, True)
    other = ask("-q", "--resume", "--ema", 0.5)
    assert other.code == 2
    assert "another run: --ema 0.5 (it was None)." in other.error


@contextmanager
def _largest_file(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_while_saving(ask: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with _largest_file(14_000):  # above the weights, below the state
        full = ask("-q")
    assert (full.code, full.stderr.count("\n")) == (6, 1), full.stderr
    assert f"No space left to write {run / 'state.pt'}." in full.error
    assert sorted(path.name for path in run.iterdir()) == [
        "best.safetensors",
        "last.safetensors",
        "log.jsonl",
        "run.json",
    ]
    assert load_file(run / "best.safetensors")["head.weight"].isfinite().all()
    assert read_trained(run / "best.safetensors") is not None
    again = ask("--resume", "--json", "-q")
    assert (again.code, len(again.document["epochs"])) == (0, 3)
