"""What a checkpoint says of itself, read without torch; and files that say nothing, or nonsense."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bbx.benchmarks.plan import subject_named
from bbx.errors import WeightsError
from bbx.models.trained import METADATA_KEY, Trained, named_spec, read_trained
from bbx.types import Preprocess

TENSORS = {"fc.bias": np.zeros(2, np.float32)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A file with the metadata of a ResNet-18 for two classes at 64 pixels."""
    trained = Trained(
        spec={"name": "resnet18", "num_classes": 2, "image_size": 64},
        task="classification",
        classes=("cat", "dog"),
        preprocess=Preprocess(64, 64),
        training={"epoch": 3},
    )
    path = tmp_path / "best.safetensors"
    save_file(TENSORS, path, metadata=trained.to_metadata())
    return path


def test_it_says_what_it_is(checkpoint: Path) -> None:
    trained = read_trained(checkpoint)
    assert trained is not None
    assert (trained.task, trained.classes, trained.training) == (
        "classification",
        ("cat", "dog"),
        {"epoch": 3},
    )
    assert trained.preprocess == Preprocess(64, 64)


def test_it_stands_for_its_model_and_options_at_their_default_for_its_own(checkpoint: Path) -> None:
    spec = named_spec(str(checkpoint), {"weights": "auto", "num_classes": None, "input": "uint8"})
    assert (spec.name, spec.num_classes, spec.image_size) == ("resnet18", 2, 64)
    assert (spec.weights, spec.input) == (str(checkpoint), "uint8")
    assert named_spec(str(checkpoint), {"image_size": 96}).image_size == 96
    # What a report recorded of it names it again.
    again = named_spec(str(checkpoint), {"num_classes": 2, "weights": str(checkpoint)})
    assert again == named_spec(str(checkpoint), {})
    assert subject_named(str(checkpoint), {}).spec == again


def test_a_name_is_a_name() -> None:
    assert named_spec("resnet18", {"num_classes": 5}).num_classes == 5


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "does not say of which model it is"),
        ({"format": "pt"}, "does not say of which model it is"),
        ({METADATA_KEY: "{}"}, "not of schema bbx/1: spec: Field required"),
        ({METADATA_KEY: json.dumps({"schema": "bbx/2"})}, "not of schema bbx/1: schema: "),
    ],
)
def test_a_file_that_does_not_say_what_it_is(
    tmp_path: Path, metadata: dict[str, str] | None, said: str
) -> None:
    path = tmp_path / "other.safetensors"
    save_file(TENSORS, path, metadata=metadata)
    with pytest.raises(WeightsError, match=said) as caught:
        named_spec(str(path), {})
    assert f"MODEL --weights {path}" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x10\x00", b"\xff" * 32, b"\x02" + b"\x00" * 7 + b"[]"])
def test_a_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="truncated or no safetensors file"):
        named_spec(str(path), {})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="There is no checkpoint"):
        named_spec(str(tmp_path / "best.safetensors"), {})


def test_it_is_read_without_torch(checkpoint: Path) -> None:
    code = (
        "import sys; from bbx.models.trained import named_spec; "
        f"named_spec({str(checkpoint)!r}, {{}}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
