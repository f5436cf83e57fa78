from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bbx import artifact
from bbx.runners.trt_flavor import trt_module
from bbx.types import Format, TensorSpec


def load_nets() -> ModuleType:
    path = Path(__file__).parent / "nets.py"
    spec = importlib.util.spec_from_file_location("bbx_test_nets", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def nets() -> ModuleType:
    return load_nets()


@pytest.fixture(scope="session")
def files(nets: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One artefact a format, without manifests."""
    folder = tmp_path_factory.mktemp("artefacts")
    onnx = nets.save_onnx(folder / "net.onnx")
    engine = folder / "net.engine"
    engine.write_bytes(nets.engine(trt_module("rtx"), onnx, [(8, 6)]))
    return {
        "onnx": onnx,
        "torchscript": nets.save_torchscript(folder / "net.torchscript"),
        "pt2": nets.save_pt2(folder / "net.pt2"),
        "engine": engine,
    }


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key of this test's own."""
    folder = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


@dataclass
class Built:
    """A built model, as `open_runner` takes it."""

    module: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@pytest.fixture
def built(nets: ModuleType) -> Built:
    return Built(nets.net(), nets.INPUTS, nets.OUTPUTS)


@pytest.fixture
def signed(nets: ModuleType, files: dict[str, Path], state: Path, tmp_path: Path) -> Callable[[Format], Path]:
    """A copy of an artefact with a manifest that bbx signed."""

    def sign(format: Format) -> Path:
        folder = tmp_path / "signed"
        folder.mkdir(exist_ok=True)
        path = folder / files[format].name
        path.write_bytes(files[format].read_bytes())
        manifest = artifact.make_manifest(
            folder,
            file=path.name,
            format=format,
            inputs=nets.INPUTS,
            outputs=nets.OUTPUTS,
            model="net",
            weights="random",
            request={},
            fingerprint="0",
            tools={},
            command="",
            document={},
        )
        artifact.manifest_path(path).write_text(manifest.to_json())
        return path

    return sign
