from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from bbx.errors import UnavailableError
from bbx.runners.gpu import gpus

HERE = Path(__file__).parent


def why_not() -> str:
    """Why the tests of this folder cannot run here; empty when they can."""
    try:
        gpus()
    except UnavailableError as error:
        return error.message
    import torch

    return "" if torch.cuda.is_available() else f"torch {torch.__version__} finds no CUDA device."


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if item.path.is_relative_to(HERE)]
    reason = why_not() if mine else ""
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"needs an NVIDIA GPU: {reason}"))


@pytest.fixture(scope="session")
def nets() -> ModuleType:
    path = HERE.parent / "runners" / "nets.py"
    spec = importlib.util.spec_from_file_location("bbx_test_nets", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def files(nets: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One artefact a format that needs no GPU to be made."""
    folder = tmp_path_factory.mktemp("artefacts")
    return {
        "onnx": nets.save_onnx(folder / "net.onnx"),
        "torchscript": nets.save_torchscript(folder / "net.torchscript"),
        "pt2": nets.save_pt2(folder / "net.pt2"),
    }
