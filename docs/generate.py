"""The generated parts of the documentation: help texts and tables, read from the code they describe.

Used by the cog blocks in `README.md` and `docs/*.md`; `make format` rewrites them and `make lint` checks
them. Every function returns Markdown that ends in a newline.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer.main

from bbx.benchmarks.measure import PROFILES
from bbx.benchmarks.plan import RUNNABLE
from bbx.benchmarks.stats import SAMPLES_NEEDED
from bbx.cli.app import app
from bbx.costs.module import module_costs
from bbx.exporter.detections import DETECTION_TOLERANCES
from bbx.exporter.verify import TOLERANCES
from bbx.models.outline import outline
from bbx.models.registry import presets
from bbx.models.spec import ModelSpec, Preset
from bbx.models.zoo_classic import CLASSIC
from bbx.runners.registry import RUNTIMES
from bbx.types import Task, TensorSpec

_WIDTH = 100
"""Columns of a help text, whatever the terminal."""

_ROOT = Path(__file__).parent.parent


def usage(*words: str) -> str:
    """What `bbx COMMAND --help` prints; without a command, what `bbx --help` prints."""
    command: Any = typer.main.get_command(app)
    context: Any = None
    for name in ("bbx", *words):
        if context is not None:
            command = command.commands[name]
        context = command.make_context(
            name,
            [],
            parent=context,
            resilient_parsing=True,
            terminal_width=_WIDTH,
            max_content_width=_WIDTH,
        )
    return f"```text\n{context.get_help().rstrip()}\n```\n"


def preset_table(task: Task | None = None) -> str:
    """Every preset, or those of a task, one row a family."""
    found = presets(task)
    families: dict[str, list[str]] = {}
    for preset in found:
        families.setdefault(preset.family, []).append(f"`{preset.name}`")
    return table(
        (f"family ({len(found)} presets)", "names"),
        ([family, " ".join(names)] for family, names in families.items()),
    )


def classic_table() -> str:
    """What the networks that bbx defines itself cost, at their own image size."""
    return table(
        ("preset", "image", "classes", "parameters", "GFLOPs", "weights"),
        (_classic_row(preset) for preset in CLASSIC),
    ) + (
        "\nA multiply-add counts as two operations, as in `bbx summary`. Weights: published ones that load.\n"
    )


def _classic_row(preset: Preset) -> list[str]:
    model = outline(ModelSpec(preset.name))
    inputs = [TensorSpec(spec.name, spec.dtype, spec.concrete(1)) for spec in model.inputs]
    costs = module_costs(model.module, inputs, ["logits"])
    side = str(preset.preprocess.height)
    size = [f"{costs.parameters:,}", f"{costs.flops / 1e9:.2f}"]
    return [f"`{preset.name}`", side, str(preset.num_classes), *size, preset.published or "–"]


def detector_table() -> str:
    """What each family of detectors does when nothing else is asked for."""
    rows: dict[str, list[str]] = {}
    for preset in presets("detection"):
        own = preset.detection
        assert own is not None  # the preset is a detector
        thresholds = [f"{own.score_threshold:g}", f"{own.iou_threshold:g}"]
        numbers = [str(own.candidates), str(own.detections)]
        # SSD and SSDlite are one family with two sets of numbers.
        name = f"`{preset.name}`" if preset.family == "SSD" else preset.family
        rows[name] = [name, *thresholds, *numbers]
    return table(
        ("", "`--score-threshold`", "`--iou-threshold`", "`--candidates` (K)", "`--detections` (D)"),
        rows.values(),
    )


def runtime_table() -> str:
    """Every runtime, with what it takes and the precisions that `bbx bench` can give it."""
    return table(
        ("runtime", "what it is", "takes", "device", "precisions"),
        (
            [
                f"`{runtime.name}`",
                runtime.summary,
                runtime.format or "the model itself",
                {"any": "GPU, else CPU", "cuda": "GPU", "cpu": "CPU"}[runtime.device],
                ", ".join(RUNNABLE[runtime.name]),
            ]
            for runtime in RUNTIMES.values()
        ),
    )


def tolerance_table() -> str:
    """How far an output may be from its reference, by precision of the artefact."""
    return table(
        ("precision", "relative L2 at most", "cosine at least"),
        (
            [precision, f"{allowed.rel_l2:g}", f"{allowed.cosine:g}"]
            for precision, allowed in TOLERANCES.items()
        ),
    )


def detection_tolerance_table() -> str:
    """How far detections may be from their reference, by precision of the artefact."""
    return table(
        ("precision", "IoU at least", "scores within", "matched at least", "extra at most"),
        (
            [
                precision,
                f"{allowed.iou:g}",
                f"{allowed.score:g}",
                f"{allowed.matched:.1%}",
                f"{allowed.extra:.1%}",
            ]
            for precision, allowed in DETECTION_TOLERANCES.items()
        ),
    )


def profile_table() -> str:
    """How long each profile of `bbx bench` measures a row."""
    return table(
        (
            "profile",
            "processes",
            "each at least",
            "at most",
            "warm-up at most",
            "waits for",
            "median known within",
            "search at most",
        ),
        (
            [
                f"`{profile.name}`",
                str(profile.processes),
                f"{profile.at_least_s:g} s",
                f"{profile.cap_s:g} s",
                f"{profile.warm_up_cap_s:g} s",
                f"p{rank} ({SAMPLES_NEEDED[rank]} runs)" if (rank := profile.percentile) else "–",
                f"±{profile.target['cpu']:.1%} on a CPU, ±{profile.target['cuda']:.1%} on a GPU",
                f"{profile.search_cap_s:g} s",
            ]
            for profile in PROFILES.values()
        ),
    )


def source(path: str, name: str) -> str:
    """A class or a function of the project as it stands in its file."""
    text = (_ROOT / path).read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return f"```python\n{ast.get_source_segment(text, node)}\n```\n"
    raise LookupError(f"{path} defines no {name}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
