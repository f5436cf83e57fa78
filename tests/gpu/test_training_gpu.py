"""`bbx train` on a GPU: mixed precision, and the same bits from the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from bbx.train_api import train
from tests.training.conftest import curve
from tests.training.digits import write_digits


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "digits", range(10), most=40, side=32)


def _train(data: Path, out: Path, **options: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {"image_size": 32, "weights": "random", "augment": "light", "device": "cuda"}
    return train("resnet18", data=data, out=out, **{**usual, "lr": 1e-3, **options})


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_mixed_precision_learns_and_keeps_weights_in_fp32(data: Path, tmp_path: Path, amp: str) -> None:
    document = _train(data, tmp_path, epochs=6, amp=amp)
    assert document["device"].startswith("cuda")
    assert document["best"]["value"] > 0.8
    assert {str(value.dtype) for value in load_file(document["checkpoint"]).values()} <= {
        "torch.float32",
        "torch.int64",
    }


def test_the_same_seed_gives_the_same_bits(data: Path, tmp_path: Path) -> None:
    one, two = (_train(data, tmp_path / name, epochs=2) for name in ("one", "two"))
    assert curve(one) == curve(two)
    assert one["sha256"] == two["sha256"]
