"""Ctrl-C, SIGTERM and SIGKILL at real commands: no process is left, and no half artefact that is believed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import onnx
import pytest

from bbx.artifact import manifest_path, staging_folders

BBX = Path(sys.executable).with_name("bbx")
GRAPH = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_squeezenet.onnx"
EXPORT = ("export", "sample_nets:tiny", "-f", "torchscript")
ENGINE = ("build-trt", str(GRAPH), "--flavor", "rtx")

pytestmark = pytest.mark.usefixtures("in_nets_folder")


def _start(out: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [BBX, *words, "-o", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _read_until(stream: IO[str] | None, stage: str) -> None:
    """Wait for the line of progress that begins a stage."""
    assert stream is not None
    lines = []
    for line in stream:
        lines.append(line)
        if line.startswith(stage):
            return
    pytest.fail(f"{stage} was never reached: {lines}")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether a process ends; one that nobody has waited for yet has ended."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in ("Z", "X"):
            return True
        time.sleep(0.05)
    return False


def _stopped(out: Path, number: int, stage: str, *words: str) -> tuple[int, str]:
    """Send a signal when a stage begins; the exit code and the last line, after all processes are gone."""
    with _start(out, *words) as run:
        _read_until(run.stderr, stage)
        children = _children(run.pid)
        assert children
        if number == signal.SIGKILL:
            # Else one that speaks while its parent ends hears of it first, and cleans up.
            for child in children:
                os.kill(child, signal.SIGSTOP)
        run.send_signal(number)
        _, errors = run.communicate(timeout=60)
    assert all(_gone(child) for child in children)
    return run.returncode, (errors.splitlines() or [""])[-1]


@pytest.mark.parametrize(
    ("number", "stage", "words"),
    [
        (signal.SIGINT, "build", EXPORT),
        (signal.SIGTERM, "export", EXPORT),
        (signal.SIGINT, "build engine", ENGINE),
    ],
)
def test_a_cancelled_command_leaves_nothing(
    tmp_path: Path, number: int, stage: str, words: tuple[str, ...]
) -> None:
    assert _stopped(tmp_path, number, stage, *words) == (130, "error: Cancelled.")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_command_leaves_the_old_artefact_and_the_next_one_cleans_up(
    bbx: Any, tmp_path: Path
) -> None:
    path = tmp_path / "sample_nets-tiny.torchscript"
    assert bbx(*EXPORT, "-o", tmp_path).code == 0
    before = path.read_bytes(), manifest_path(path).read_bytes()
    code, _ = _stopped(tmp_path, signal.SIGKILL, "export", *EXPORT, "--seed", "1")
    assert code == -signal.SIGKILL
    assert (path.read_bytes(), manifest_path(path).read_bytes()) == before
    assert staging_folders(path) != []
    assert bbx(*EXPORT, "--seed", "2", "-o", tmp_path).code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, manifest_path(path).name]
    assert path.read_bytes() != before[0]


def test_a_reader_that_goes_away_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([BBX, "models"], stdout=write_end, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")
