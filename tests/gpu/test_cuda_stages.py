"""Requests from host memory on every CUDA runtime: the same answers, and every stage takes time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bbx.runners.base import Runner

Make = Callable[[str], Runner]
NAMES = ("eager", "torchscript", "ort-cuda")


@pytest.fixture
def make(nets: ModuleType, files: dict[str, Path]) -> Make:
    from bbx.runners.eager import EagerRunner
    from bbx.runners.ort import OrtRunner
    from bbx.runners.torchscript import TorchScriptRunner

    specs = nets.INPUTS, nets.OUTPUTS

    def runner(name: str) -> Runner:
        if name == "eager":
            return EagerRunner(nets.net(), *specs, device="cuda")
        if name == "torchscript":
            return TorchScriptRunner(files["torchscript"], *specs, device="cuda", trust=True)
        return OrtRunner(files["onnx"], provider="cuda")

    return runner


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_stages_give_the_answers_and_their_times(
    name: str, pinned: bool, make: Make, nets: ModuleType
) -> None:
    given = nets.feeds(4)
    with make(name) as runner:
        staged = runner.stage(given)
        feeds = runner.pin(given) if pinned else given
        wanted = runner.infer(given)["logits"]
        assert np.array_equal(staged.run(feeds)["logits"], wanted)
        answers, stages = staged.timed(feeds)
    assert np.array_equal(answers["logits"], wanted)
    assert set(stages) == {"h2d", "enqueue", "compute", "d2h"}
    assert all(nanoseconds > 0 for nanoseconds in stages.values())


@pytest.mark.parametrize("name", NAMES)
def test_another_input_in_the_same_place_gives_another_answer(
    name: str, make: Make, nets: ModuleType
) -> None:
    given = nets.feeds(2)
    other = {key: array + np.float32(1) for key, array in given.items()}
    with make(name) as runner:
        staged = runner.stage(given)
        first = staged.run(given)["logits"]
        second = staged.run(other)["logits"]
        assert np.array_equal(first, staged.run(given)["logits"])
        assert np.array_equal(second, runner.infer(other)["logits"])
    assert not np.array_equal(first, second)
