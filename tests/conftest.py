"""Fixtures for all tests: a state folder of their own, the command line in two ways, small networks."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bbx import process
from bbx.cli import app

BBX = Path(sys.executable).with_name("bbx")

_NETS = '''
import os
import torch
from torch import nn

class Tiny(nn.Module):
    """Tells inputs apart at any size."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 16, 10)

    def forward(self, images):
        maps = torch.relu(self.norm(self.stem(images)))
        return self.head(nn.functional.adaptive_avg_pool2d(maps, 4).flatten(1))

def tiny():
    return Tiny(), torch.zeros(1, 3, 16, 16)

def fickle():
    """As `tiny`; while the environment says so, with a factor that no exporter records."""
    return (Unrecorded() if os.environ.get("FICKLE") else Tiny()), torch.zeros(1, 3, 16, 16)

class Unrecorded(Tiny):
    def forward(self, images):
        return super().forward(images) * float(images.detach().numpy().max())

class Counting(Tiny):
    """What it gives depends on how often it was called, which no exporter records."""

    calls = 0

    def forward(self, images):
        Counting.calls += 1
        return super().forward(images) + torch.arange(10) * float(Counting.calls)

class Fixed(Tiny):
    """An answer that is `value`, whatever goes in."""

    def __init__(self, value):
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, images):
        return super().forward(images) * 0.0 + self.value

def vit():
    """torchvision's own, which starts with a zeroed head and takes one size."""
    from torchvision.models.vision_transformer import VisionTransformer
    sizes = dict(image_size=16, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32)
    return VisionTransformer(**sizes, num_classes=10), torch.zeros(1, 3, 16, 16)

def counting():
    return Counting(), torch.zeros(1, 3, 16, 16)

def zero():
    return Fixed(torch.zeros(10)), torch.zeros(1, 3, 16, 16)

def constant():
    return Fixed(torch.full((10,), 2.0)), torch.zeros(1, 3, 16, 16)

def blind():
    return Fixed(torch.arange(10.0)), torch.zeros(1, 3, 16, 16)

def not_a_number():
    return Fixed(torch.full((10,), float("nan"))), torch.zeros(1, 3, 16, 16)

class Stubborn(Tiny):
    """Switches its normalisation to training mode whenever it runs."""

    def forward(self, images):
        answer = super().forward(images)
        self.norm.train()
        return answer

def stubborn():
    return Stubborn(), torch.zeros(1, 3, 16, 16)
'''


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command gave."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        document: dict[str, Any] = json.loads(self.stdout)
        return document

    @property
    def error(self) -> str:
        """The one line that says what went wrong, which ends stderr."""
        lines = self.stderr.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], self.stderr
        assert "Traceback" not in self.stderr
        return lines[-1].removeprefix("error: ")


Command = Callable[..., Answer]


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep signing key and locks away from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _interruptible() -> None:
    """Ctrl-C does what it does on a terminal: a shell starts what runs in its background deaf to it.

    Before every test, since a library that an earlier one used may have put its own handler there.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def nets_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which `sample_nets:NAME` is a model."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "sample_nets.py").write_text(_NETS)
    return folder


@pytest.fixture(scope="session")
def nets(nets_folder: Path) -> ModuleType:
    """That module, to be used in this process."""
    spec = importlib.util.spec_from_file_location("sample_nets_here", nets_folder / "sample_nets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def in_nets_folder(nets_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in that folder."""
    monkeypatch.chdir(nets_folder)
    return nets_folder


@pytest.fixture
def inline_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run tasks in this process, where torch is imported once for all tests."""

    def run(
        name: str, request: dict[str, Any], *, listener: process.Listener = process.silent
    ) -> dict[str, Any]:
        module, _, function = name.partition(":")
        with process.listening(listener):
            document: dict[str, Any] = getattr(importlib.import_module(module), function)(
                json.loads(json.dumps(request))
            )
        return document

    monkeypatch.setattr(process, "run_task", run)


@pytest.fixture
def bbx(inline_tasks: None, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line, in this process."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        code = app._exit_code([str(argument) for argument in arguments])
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def bbx_process(tmp_path: Path) -> Command:
    """The installed `bbx`, as a process of its own in an empty folder."""

    def run(*arguments: object, cwd: Path = tmp_path, timeout: float = 300, **environment: str) -> Answer:
        done = subprocess.run(
            [BBX, *map(str, arguments)],
            cwd=cwd,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    return run
