"""`bbx train` as processes of their own: killed and resumed, interrupted, several at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bbx.models.trained import read_trained
from tests.training.digits import write_digits
from tests.training.judged import accuracy

BBX = Path(sys.executable).with_name("bbx")
TINY = "sample_nets:tiny"
QUICK = ("--epochs", 3, "--batch-size", 16, "--augment", "light", "--workers", 0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of all ten digits, twelve images each."""
    return write_digits(tmp_path_factory.mktemp("digits") / "digits", range(10), most=12)


def _command(data: Path, out: Path, *words: str) -> list[Any]:
    return [
        BBX,
        "train",
        TINY,
        "--data",
        data,
        *map(str, QUICK),
        "--save-every",
        "0",
        *words,
        "-q",
        "-o",
        out,
    ]


def _killed(command: list[str], out: Path, number: int, when: str) -> int:
    """Send a signal to the process that trains when the log has `when`; the exit code of bbx."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 200
        log = out / "log.jsonl"
        while time.monotonic() < deadline and run.poll() is None:
            if log.exists() and when in log.read_text():
                break
            time.sleep(0.01)
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        os.kill(int(children[0]) if number == signal.SIGKILL else run.pid, number)
        return run.wait(60)


def test_killed_and_resumed_the_curve_is_the_same(
    bbx: Any, in_nets_folder: Path, digits: Path, tmp_path: Path
) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    more = ("--epochs", "12", "--ema", "0.9")
    assert _killed(_command(digits, killed, *more), killed, signal.SIGKILL, '"epoch": 3') == 6
    at = json.loads((killed / "log.jsonl").read_text().splitlines()[-1])["step"]
    assert bbx(*_command(digits, killed, *more, "--resume")[1:]).code == 0
    assert bbx(*_command(digits, whole, *more)[1:]).code == 0

    def curve(folder: Path) -> list[Any]:
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]

    assert at < curve(whole)[-1]["step"] == 12 * 6
    assert curve(killed) == curve(whole)
    for name in ("best.safetensors", "last.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_ctrl_c_leaves_the_last_good_checkpoint(in_nets_folder: Path, digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert _killed(_command(digits, run, "--epochs", "500"), run, signal.SIGINT, '"epoch": 2, "step"') == 130
    assert read_trained(run / "best.safetensors") is not None
    assert not list(run.glob(".*"))


def test_several_processes_judge_the_whole_set(in_nets_folder: Path, digits: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "bbx"]
    done = subprocess.run(
        [*words, *_command(digits, tmp_path / "run", "--json")[1:]],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    document = json.loads(done.stdout)
    assert document["processes"] == 2
    assert document["data"]["val"] == 20
    assert document["epochs"][-1]["step"] == 3 * (100 // 32)
    [best] = [epoch for epoch in document["epochs"] if epoch["epoch"] == document["best"]["epoch"]]
    assert best["value"] == accuracy(TINY, document["checkpoint"], digits)
