from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from bbx.errors import BbxError, UnavailableError
from bbx.runners.eager import CompileRunner


def test_compiled_agrees_with_the_module_and_samples(nets: ModuleType) -> None:
    given = nets.feeds(2)
    with CompileRunner(nets.net(), nets.INPUTS, nets.OUTPUTS) as runner:
        bound = runner.bind(given)
        assert (bound.sample(3) > 0).all()
        answer = bound.outputs()["logits"]
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert nets.relative(answer, nets.reference(given)) < 1e-4


def test_a_missing_compiler_is_named(
    nets: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    runner = CompileRunner(nets.net(), nets.INPUTS, nets.OUTPUTS)
    broken = inductor.patch({"cpp.cxx": ("/nowhere/c++",)})
    with broken, runner, pytest.raises(UnavailableError, match="C\\+\\+ compiler"):
        runner.infer(nets.feeds(1))


def test_compiling_too_often_is_an_error_and_not_eager(nets: ModuleType) -> None:
    runner = CompileRunner(nets.net(), nets.INPUTS, nets.OUTPUTS)
    with torch._dynamo.config.patch(recompile_limit=1), runner:
        runner.infer(nets.feeds(1))
        with pytest.raises(BbxError, match="eagerly instead"):
            runner.infer(nets.feeds(2))
