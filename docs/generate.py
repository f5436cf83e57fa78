"""The generated parts of the documentation: help texts and tables, read from the code they describe.

Used by the cog blocks in `README.md` and `docs/*.md`; `make format` rewrites them and `make lint` checks
them. Every function returns Markdown that ends in a newline.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import typer.main

from bbx.benchmarks.measure import PROFILES
from bbx.benchmarks.plan import RUNNABLE
from bbx.benchmarks.stats import SAMPLES_NEEDED
from bbx.cli.app import app
from bbx.exporter.verify import TOLERANCES
from bbx.models.registry import presets
from bbx.runners.registry import RUNTIMES

_WIDTH = 100
"""Columns of a help text, whatever the terminal."""


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


def preset_table() -> str:
    """Every preset, one row a family."""
    families: dict[str, list[str]] = {}
    for preset in presets():
        families.setdefault(preset.family, []).append(f"`{preset.name}`")
    return _table(
        (f"family ({len(presets())} presets)", "names"),
        ([family, " ".join(names)] for family, names in families.items()),
    )


def runtime_table() -> str:
    """Every runtime, with what it takes and the precisions that `bbx bench` can give it."""
    return _table(
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
    return _table(
        ("precision", "relative L2 at most", "cosine at least"),
        (
            [precision, f"{allowed.rel_l2:g}", f"{allowed.cosine:g}"]
            for precision, allowed in TOLERANCES.items()
        ),
    )


def profile_table() -> str:
    """How long each profile of `bbx bench` measures a row."""
    return _table(
        ("profile", "at least", "at most", "warm-up at most", "waits for", "median known within"),
        (
            [
                f"`{profile.name}`",
                f"{profile.at_least_s:g} s",
                f"{profile.cap_s:g} s",
                f"{profile.warm_up_cap_s:g} s",
                f"p{profile.percentile} ({SAMPLES_NEEDED[profile.percentile]} runs)",
                f"±{profile.target['cpu']:.1%} on a CPU, ±{profile.target['cuda']:.1%} on a GPU",
            ]
            for profile in PROFILES.values()
        ),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
