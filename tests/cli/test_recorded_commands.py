"""Commands that documents record can be typed again, and `bench` exits by what its rows say."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer.main

from bbx.cli.app import app
from bbx.cli.bench import exit_code
from bbx.making import command_line


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("export", {"format": "onnx", "precision": "fp16", "half_io": True, "batch": 4}),
        ("build-trt", {"precision": "int8", "targets": ("sm_86", "sm_89"), "profiles": ("1,4,8",)}),
        ("build-trt", {"precision": "fp32", "workspace_mib": 512, "tf32": True, "num_classes": 7}),
    ],
)
def test_a_recorded_command_is_one_that_can_be_typed(verb: str, options: dict[str, Any]) -> None:
    words = shlex.split(command_line(verb, "resnet18", options, {}))
    assert words[:3] == ["bbx", verb, "resnet18"]
    group: Any = typer.main.get_command(app)
    context = group.commands[verb].make_context(verb, words[2:])
    for name, value in options.items():
        if name == "precision":
            assert value == "fp32" or context.params[value]
        else:
            given = context.params[name.removesuffix("s") if isinstance(value, tuple) else name]
            assert (tuple(given) if isinstance(value, tuple) else given) == value


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["valid", "valid"], 0),
        (["valid", "failed"], 0),
        (["contended"], 0),
        (["failed", "failed"], 1),
        (["valid", "parity_failed"], 3),
    ],
)
def test_bench_exits_by_its_rows(verdicts: list[str], code: int) -> None:
    rows = [{"verdict": v, "latency_ns": None if v == "failed" else {"median": 1}} for v in verdicts]
    assert exit_code({"results": rows}) == code
