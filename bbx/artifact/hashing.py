"""Hashes of files, of requests, and of bbx itself: what makes an artefact the same one."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from bbx import lazy
from bbx.version import __version__


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint_of(facts: dict[str, Any]) -> str:
    """SHA-256 of plain JSON data, independent of the order of its keys."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def source_digest() -> str:
    """SHA-256 over bbx's own source, so that no artefact outlives the code that proved it."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    walk = os.walk(root, followlinks=True)
    sources = (Path(folder, name) for folder, _, names in walk for name in names if name.endswith(".py"))
    for path in sorted(sources):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()


def tool_versions(*modules: str) -> dict[str, str]:
    """Versions of bbx and of the libraries named, without importing them; absent ones are left out."""
    found = {name: lazy.version(name) for name in modules}
    return {"bbx": __version__} | {name: text for name, text in found.items() if text is not None}
