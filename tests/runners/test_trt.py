"""TensorRT engines on a machine that may have no GPU: what is refused, and with which words."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bbx.errors import ArtifactError, UnavailableError, UsageError
from bbx.runners.gpu import gpus
from bbx.runners.trt import TrtRunner
from bbx.runners.trt_flavor import trt_module


def has_gpu() -> bool:
    try:
        return bool(gpus())
    except UnavailableError:
        return False


@pytest.mark.skipif(has_gpu(), reason="tells of a machine without a GPU")
def test_an_engine_without_a_gpu_is_unavailable(signed: Callable[[str], Path]) -> None:
    runner = TrtRunner(signed("engine"), flavor="rtx")
    with pytest.raises(UnavailableError, match="no usable NVIDIA GPU") as caught, runner:
        pass
    assert caught.value.exit_code == 5


def test_a_foreign_engine_is_not_loaded(files: dict[str, Path], state: Path) -> None:
    with pytest.raises(ArtifactError, match="--trust"), TrtRunner(files["engine"], flavor="rtx"):
        pass


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda plan: plan[: len(plan) // 2],
    "empty": lambda _: b"",
    "text": lambda _: b"not an engine " * 100,
    "of another version": lambda plan: plan[:24] + bytes(number + 1 for number in plan[24:27]) + plan[27:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_engine_that_does_not_fit_is_an_artifact_error(
    damage: str, files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "bad.engine"
    path.write_bytes(DAMAGE[damage](files["engine"].read_bytes()))
    runner = TrtRunner(path, flavor="rtx", trust=True)
    with pytest.raises(ArtifactError, match="bbx build-trt") as caught, runner:
        pass
    assert str(caught.value).isprintable()
    if damage == "of another version":
        assert "version" in str(caught.value)


def test_a_missing_engine_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no file"), TrtRunner(tmp_path / "none.engine", flavor="rtx"):
        pass


def test_an_engine_answers_only_while_it_is_open(tmp_path: Path) -> None:
    runner = TrtRunner(tmp_path / "none.engine", flavor="rtx")
    assert runner.name == "rtx"
    with pytest.raises(UsageError, match="not open"):
        runner.infer({})


def test_an_unknown_flavor_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="Known: rtx, tensorrt"):
        trt_module("jetson")  # type: ignore[arg-type]


_FLAVORS = """
import json, sys
from bbx.errors import UsageError
from bbx.runners.trt_flavor import trt_module
trt = trt_module("rtx")
from polygraphy.mod.trt_importer import tensorrt_module_and_version_string
try:
    trt_module("tensorrt")
    refused = ""
except UsageError as error:
    refused = str(error)
print(json.dumps([trt.__name__, tensorrt_module_and_version_string(), refused]))
"""


def test_one_process_uses_one_flavor_and_polygraphy_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", _FLAVORS], capture_output=True, text=True, check=True)
    module, polygraphy, refused = json.loads(done.stdout)
    assert module == "tensorrt_rtx"
    assert polygraphy.startswith("tensorrt_rtx")
    assert "already uses the other flavour" in refused


def test_a_polygraphy_of_the_other_flavor_is_noticed() -> None:
    code = (
        "import polygraphy.config\n"
        "from bbx.errors import UsageError\n"
        "from bbx.runners.trt_flavor import trt_module\n"
        "try:\n    trt_module('rtx')\nexcept UsageError:\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={})
    assert done.stdout.strip() == "refused"
