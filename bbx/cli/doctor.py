"""`bbx doctor`."""

from __future__ import annotations

from typing import Any

import typer

from bbx.cli import options as opt
from bbx.cli.output import format_bytes, print_json
from bbx.errors import UnavailableError


def doctor(*, as_json: opt.Json = False) -> int:
    """Say what this machine can do, what is missing, and what mends it."""
    from bbx.doctor import examine

    document = examine()
    if as_json:
        print_json(document)
    else:
        typer.echo(summary(document))
    return UnavailableError.exit_code if document["problems"] else 0


def summary(document: dict[str, Any]) -> str:
    """The document as text: a mark, a name and what is known of it on each line."""
    machine = document["platform"]
    memory = format_bytes(machine["memory_bytes"])
    lines = [
        f"bbx {document['bbx']}, Python {document['python']['version']}, {machine['system']}, "
        f"{machine['usable_cpus']} CPUs, {memory}"
    ]
    lines += _section("Libraries", document["libraries"], lambda found: found["version"] or "")
    gpus = document["gpus"]
    names = ", ".join(device["name"] for device in gpus["devices"])
    lines += _section("GPU", {"gpu": gpus}, lambda found: names)
    lines += _section("Runtimes", document["runtimes"], lambda found: found["summary"])
    lines += _section(
        "Engine builders", document["flavors"], lambda found: f"builds for {' '.join(found['targets'])}"
    )
    lines += _section("Compiler", {"c++": document["compiler"]}, lambda found: found["path"])
    lines += _section(
        "Folders",
        document["folders"],
        lambda found: f"{found['path']}, {format_bytes(found['free_bytes'])} free",
    )
    problems = document["problems"]
    lines += ["", "Nothing that bbx needs is missing." if not problems else "Must be mended:"]
    return "\n".join(lines + [f"  {found['what']}: {found['reason']} {found['fix']}" for found in problems])


def _section(title: str, entries: dict[str, dict[str, Any]], describe: Any) -> list[str]:
    width = max(map(len, entries))
    lines = ["", title]
    for name, found in entries.items():
        said = describe(found) if found["ok"] else f"{found['reason']} {found['fix']}"
        lines.append(f"  {'+' if found['ok'] else '-'} {name:<{width}}  {said}")
    return lines
