"""The key of this user on this machine, and signatures with it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from bbx.errors import ArtifactError


def state_folder() -> Path:
    """Where this user's signing key and the locks of artefacts are kept."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "bbx"


def _machine_key() -> bytes:
    path = state_folder() / "key"
    try:
        with contextlib.suppress(FileNotFoundError):
            return path.read_bytes()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".key-")
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(32))
        # A hard link fails where another process was first; then its key is the one.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        Path(temporary).unlink()
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"The key that signs artefacts cannot be kept in {path.parent}: {error.strerror}.",
            hint="Set XDG_STATE_HOME to a folder that can be written.",
        ) from error


def sign(sha256: str) -> str:
    """Signature of a file's hash with the key of this user on this machine (HMAC-SHA-256)."""
    return hmac.new(_machine_key(), sha256.encode(), hashlib.sha256).hexdigest()
