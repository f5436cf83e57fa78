"""A run from data to checkpoint: deterministic, resumed exactly, whole whatever happens."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bbx import process
from bbx.artifact import sha256_of
from bbx.errors import ArtifactError, BbxError, ExhaustedError, ModelError, UnavailableError, UsageError
from bbx.models.trained import read_trained
from bbx.training.loop import Loop
from bbx.training.options import TrainOptions
from bbx.training.samples import Key, Sample, Samples
from tests.training.conftest import QUICK, curve
from tests.training.digits import write_digits
from tests.training.judged import accuracy

Quick = Callable[..., dict[str, Any]]


def _log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_the_loss_falls_and_the_best_epoch_is_kept(quick: Quick, digits: Path, tmp_path: Path) -> None:
    document = quick(epochs=6, lr=1e-2)
    losses = [epoch["train_loss"] for epoch in document["epochs"]]
    assert losses[-1] < 0.8 * losses[0]
    values = [epoch["value"] for epoch in document["epochs"]]
    assert document["best"] == {
        "epoch": values.index(max(values)) + 1,
        "metric": "top1",
        "value": max(values),
    }
    assert document["data"]["train"] + document["data"]["val"] == 120
    trained = read_trained(tmp_path / "run" / "best.safetensors")
    assert trained is not None
    assert trained.training["epoch"] == document["best"]["epoch"]
    assert trained.classes == tuple("0123456789") == tuple(document["classes"])
    assert document["best"]["value"] == accuracy("sample_nets:tiny", document["checkpoint"], digits)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(quick: Quick, tmp_path: Path) -> None:
    one, two = quick(out=tmp_path / "one", workers=1), quick(out=tmp_path / "two")
    assert curve(one) == curve(two)
    assert one["sha256"] == two["sha256"]
    assert curve(quick(out=tmp_path / "three", seed=1)) != curve(one)


class _Stop(Exception):
    """Ends a run where a kill would."""


@pytest.mark.parametrize(("at", "save_every"), [(3, 0.0), (14, 0.0), (21, 600.0)])
def test_a_stopped_run_goes_on_bit_for_bit(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, save_every: float
) -> None:
    """Before anything is saved; from a step inside an epoch; and with a line in the log of a step done again.

    Steps are 6 an epoch, and the log has a line at steps 10 and 20, where the state may be saved too.
    """
    how: dict[str, Any] = {"epochs": 4, "ema": 0.9, "mixup": 0.3, "patience": 3, "save_every": save_every}
    whole = quick(**how, out=tmp_path / "whole")
    step = Loop._step

    def stopping(self: Loop, engine: Any, batch: Any) -> None:
        if engine.state.iteration == at:
            raise _Stop
        step(self, engine, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", stopping)
        with pytest.raises(_Stop):
            quick(**how)
    resumed = quick(**how, resume=True)
    assert curve(resumed) == curve(whole)
    assert resumed["sha256"] == whole["sha256"]
    assert _log(tmp_path / "run") == _log(tmp_path / "whole")


def test_a_finished_run_is_resumed_without_a_step(quick: Quick, tmp_path: Path) -> None:
    document = quick()
    before = (tmp_path / "run" / "state.pt").read_bytes()
    again = quick(resume=True)
    assert (again["epochs"], again["sha256"]) == (document["epochs"], document["sha256"])
    assert (tmp_path / "run" / "state.pt").read_bytes() == before


def test_a_folder_with_another_run_is_left_alone(quick: Quick, tmp_path: Path) -> None:
    before = quick(epochs=1)["sha256"]
    with pytest.raises(ArtifactError, match=r"holds a run already\. Add --resume .* --force"):
        quick(epochs=1)
    with pytest.raises(UsageError, match=r"another run: --seed 4 \(it was 0\), --epochs 2 \(it was 1\)"):
        quick(epochs=2, seed=4, resume=True)
    kept = read_trained(tmp_path / "run" / "best.safetensors")
    assert kept is not None
    assert kept.training["epoch"] == 1
    assert quick(epochs=1, seed=4, force=True)["sha256"] != before


def test_other_data_is_another_run(quick: Quick, digits: Path, tmp_path: Path) -> None:
    data = shutil.copytree(digits, tmp_path / "data")
    quick(epochs=1, data=data)
    next(data.rglob("*.png")).unlink()
    with pytest.raises(UsageError, match="has changed since the run began"):
        quick(epochs=1, data=data, resume=True)


def test_a_loss_that_is_no_number_stops_and_the_last_good_checkpoint_stays(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Loop._step

    def poisoned(self: Loop, engine: Any, batch: Any) -> None:
        if engine.state.iteration == 9:
            batch.images[0] = float("nan")
        learn(self, engine, batch)

    monkeypatch.setattr(Loop, "_step", poisoned)
    with pytest.raises(BbxError, match=r"became nan in epoch 2, batch 3; .*best\.safetensors, of epoch 1"):
        quick()
    weights = load_file(tmp_path / "run" / "best.safetensors")
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_an_average_of_the_weights_is_what_is_kept(quick: Quick, tmp_path: Path) -> None:
    plain, averaged = quick(out=tmp_path / "plain"), quick(out=tmp_path / "averaged", ema=0.9)
    losses = [[epoch["train_loss"] for epoch in each["epochs"]] for each in (plain, averaged)]
    assert losses[0] == losses[1]
    assert plain["epochs"][-1]["val_loss"] != averaged["epochs"][-1]["val_loss"]


def test_training_ends_when_nothing_becomes_better(quick: Quick) -> None:
    document = quick(epochs=9, lr=1e-12, patience=2, freeze_backbone=True)
    assert len(document["epochs"]) == 3
    assert document["stopped"] == "nothing better in 2 epochs"


@pytest.mark.parametrize(
    "options",
    [
        {"amp": "bf16"},
        {"amp": "fp16"},
        {"mixup": 0.4, "label_smoothing": 0.1},
        {"optimizer": "sgd", "schedule": "step"},
        {"optimizer": "lamb", "lr": 1e-3, "schedule": "linear"},
        {"augment": "strong"},
    ],
    ids=str,
)
def test_what_else_people_ask_for(quick: Quick, options: dict[str, Any]) -> None:
    document = quick(**({"epochs": 1} | options))
    assert np.isfinite(document["epochs"][0]["train_loss"])
    assert (document["parameters"]["trained"], document["stopped"]) == (1530, "all of 1 epochs")


def test_a_broken_picture_is_named_once_and_left_out(quick: Quick, tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", [0, 1], most=60)
    broken = sorted((data / "1").iterdir())[7]
    broken.write_bytes(b"no picture")
    heard: list[str] = []

    def hear(event: Any) -> None:
        if isinstance(event, process.Notice):
            heard.append(event.text)

    spec = {"weights": "random", "image_size": 32}
    document = quick("timm:test_resnet", data=data, epochs=2, listener=hear, **spec)
    assert list(document["data"]["skipped"]) == [f"1/{broken.name}"]
    assert [text for text in heard if broken.name in text] == document["warnings"]
    assert len(document["warnings"]) == 1
    sorted((data / "0").iterdir())[3].write_bytes(b"")
    with pytest.raises(BbxError, match=r"2 images of 120 cannot be read, and at most 1 % may be: .*\.png"):
        quick("timm:test_resnet", data=data, epochs=2, force=True, **spec)


# --- heads and weights ------------------------------------------------------------------------------


def test_a_head_for_the_classes_found_on_weights_for_others(quick: Quick, tmp_path: Path) -> None:
    how: dict[str, Any] = {"image_size": 32, "epochs": 1}
    some = write_digits(tmp_path / "some", [0, 1, 2], most=6)
    first = quick("timm:test_resnet", data=some, weights="random", out=tmp_path / "first", **how)
    second = quick(
        "timm:test_resnet",
        weights=first["checkpoint"],
        freeze_backbone=True,
        out=tmp_path / "second",
        **how,
    )
    [note] = [note for note in second["notes"] if "head is new" in note]
    assert note.endswith("best.safetensors has 3 classes, and this one 10")
    before, after = (load_file(each["checkpoint"]) for each in (first, second))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"fc.weight", "fc.bias"}
    assert after["fc.weight"].shape[0] == 10
    # A checkpoint names its model, and goes on as it is where the classes are the same.
    third = quick(first["checkpoint"], data=some, head="linear", out=tmp_path / "third", epochs=1)
    assert not [note for note in third["notes"] if "head is new" in note]
    assert third["model"] == "timm:test_resnet"
    mlp = quick(first["checkpoint"], data=some, out=tmp_path / "mlp", epochs=1, workers=1)
    assert mlp["sha256"] == third["sha256"]


def test_a_factory_has_a_head_of_its_own(quick: Quick, tmp_path: Path) -> None:
    some = write_digits(tmp_path / "some", [0, 1, 2], most=6)
    with pytest.raises(ModelError, match="tells 10 classes apart, and the data has 3"):
        quick(data=some)


def test_curves_need_tensorboard(quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bbx.lazy.installed", lambda module: False)
    with pytest.raises(UnavailableError, match=r"TensorBoard, which is not installed\. Type: pip install"):
        quick(log_dir=str(tmp_path / "board"))
    assert not (tmp_path / "run").exists()


def test_quick_options_are_options() -> None:
    assert set(QUICK) <= set(TrainOptions.__dataclass_fields__)


def test_force_deletes_nothing_before_all_is_known_to_be_right(quick: Quick, tmp_path: Path) -> None:
    before = quick(epochs=1)["sha256"]
    for wrong in ({"optimizer": "adamwx", "lr": 0.1}, {"freeze_until": "nowhere"}, {"weights": "no.pth"}):
        with pytest.raises(BbxError):
            quick(force=True, **wrong)
    assert sha256_of(tmp_path / "run" / "best.safetensors") == before
    assert quick(epochs=1, resume=True)["sha256"] == before


def test_a_reader_that_is_killed_is_told_in_one_line(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.getpid()

    def dying(self: Samples, key: Key) -> Sample:
        assert os.getpid() != here
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    monkeypatch.setattr(Samples, "__getitem__", dying)
    with pytest.raises(ExhaustedError, match=r"reads images was killed.* Type: --workers 0"):
        quick(workers=1)
