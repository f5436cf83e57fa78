"""Programs and who made them: one without this user's signature is not loaded."""

from __future__ import annotations

import hmac
from pathlib import Path

from bbx.artifact.hashing import sha256_of
from bbx.artifact.keys import sign
from bbx.artifact.manifest import PROGRAMS, read_manifest
from bbx.errors import ArtifactError
from bbx.types import Format


def require_trust(path: Path, format: Format, *, trust: bool) -> None:
    """Refuse a program that bbx did not make here.

    Args:
        trust: the user takes responsibility for the file.

    Raises:
        ArtifactError: the format runs code when loaded, and the file is foreign or was changed.
    """
    if format not in PROGRAMS or trust:
        return
    manifest = read_manifest(path)
    if manifest is None:
        reason = "it has no manifest"
    elif not hmac.compare_digest(sign(manifest.sha256), manifest.signature):
        reason = "its manifest was not made by bbx on this machine"
    elif sha256_of(path) != manifest.sha256:
        reason = "it changed after bbx made it"
    else:
        return
    raise ArtifactError(
        f"{path} is a program ({format}) and {reason}, so it was not loaded.",
        hint="If you know who made it, add --trust.",
    )
