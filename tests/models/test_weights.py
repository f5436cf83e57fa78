"""Weights: every way to ask for them, every way in which a checkpoint can be wrong."""

from __future__ import annotations

import hashlib
import http.server
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import ResNet18_Weights, ViT_B_16_Weights

from bbx import process
from bbx.artifact import WeightsFile, sha256_of
from bbx.errors import WeightsError
from bbx.images import PHOTOGRAPHS, file_batch
from bbx.models.build import Model, build
from bbx.models.pretrained import Published, download, reachable
from bbx.models.spec import ModelSpec
from bbx.models.weights import cached_pretrained

_NET = "timm:resnet10t"
_SMALL = {"image_size": 64}


def load(path: Path, name: str = _NET, **options: Any) -> Model:
    return build(ModelSpec(name, weights=str(path), image_size=64, **options))


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A state dict of the small network that no other seed gives."""
    return dict(build(ModelSpec(_NET, weights="random", image_size=64, seed=77)).module.state_dict())


def same(model: Model, state: dict[str, torch.Tensor]) -> bool:
    own = model.module.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, and a proxy that nobody listens on."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path


# --- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin", ".ckpt"])
def test_a_plain_state_dict(tmp_path: Path, state: dict[str, torch.Tensor], suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    model = load(path)
    assert same(model, state)
    assert model.notes == ()
    assert model.weights == WeightsFile(path=str(path), sha256=sha256_of(path))


@pytest.mark.parametrize(
    ("wrappers", "prefix"),
    [
        (("state_dict",), ""),
        (("model",), ""),
        (("model_ema",), "module."),
        (("state_dict_ema",), ""),
        (("ema", "state_dict"), "_orig_mod."),
        (("state_dict",), "module._orig_mod."),
        (("state_dict",), "model."),
    ],
)
def test_known_wrappers_are_unwrapped_and_reported(
    tmp_path: Path, state: dict[str, torch.Tensor], wrappers: tuple[str, ...], prefix: str
) -> None:
    content: dict[str, Any] = {prefix + key: value for key, value in state.items()}
    if "ema" in wrappers[0]:
        content["n_averaged"] = torch.tensor(3)
    for wrapper in reversed(wrappers):
        content = {wrapper: content, "epoch": 3}
    torch.save(content, tmp_path / "net.pth")
    model = load(tmp_path / "net.pth")
    assert same(model, state)
    for wrapper in wrappers:
        assert any(repr(wrapper) in note for note in model.notes)
    for part in filter(None, prefix.split(".")):
        assert any(f"'{part}.'" in note for note in model.notes)


def test_averaged_weights_come_first(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    plain = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({"model": plain, "model_ema": state}, tmp_path / "net.pth")
    assert same(load(tmp_path / "net.pth"), state)


def test_a_head_of_another_size_says_what_to_type(tmp_path: Path) -> None:
    path = tmp_path / "ten.pth"
    ten = build(ModelSpec(_NET, weights="random", num_classes=10, seed=5, image_size=64)).module.state_dict()
    torch.save(ten, path)
    with pytest.raises(WeightsError) as caught:
        load(path)
    assert "10 classes" in str(caught.value)
    assert caught.value.hint == "Type: --num-classes 10"
    assert same(load(path, num_classes=10), dict(ten))


def test_pooled_features_leave_the_checkpoints_head_out(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    torch.save(state, tmp_path / "net.pth")
    model = load(tmp_path / "net.pth", head="none")
    assert torch.equal(model.module.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    assert "fc.weight" in model.notes[-1]


def test_keys_and_shapes_that_do_not_fit_are_listed(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    wrong = {key: value for key, value in state.items() if not key.startswith("layer4")}
    wrong |= {"neck.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(2, 2)}
    torch.save(wrong, tmp_path / "net.pth")
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "net.pth")
    said = str(caught.value)
    # Batch normalisation fills in a counter that a checkpoint lacks.
    gone = [key for key in state if key.startswith("layer4") and not key.endswith("num_batches_tracked")]
    missing = len(gone)
    assert f"{missing} missing (layer4.0.conv1.weight" in said
    assert f"and {missing - 4} more" in said
    assert "1 unexpected (neck.weight)" in said
    assert "layer1.0.conv1.weight [2, 2] for [64, 64, 3, 3]" in said


def test_old_densenet_names(tmp_path: Path) -> None:
    made = build(ModelSpec("densenet121", weights="random", image_size=64, seed=6)).module.state_dict()
    old = {
        key.replace("norm1", "norm.1").replace("conv2", "conv.2") if "denselayer" in key else key: value
        for key, value in made.items()
    }
    torch.save(old, tmp_path / "densenet.pth")
    assert same(load(tmp_path / "densenet.pth", "densenet121"), dict(made))


class _Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_pickle_that_runs_code_does_not(tmp_path: Path, state: dict[str, torch.Tensor], how: str) -> None:
    path, target = tmp_path / "evil.pth", tmp_path / "owned"
    content = state | {"payload": _Evil(target)}
    if how == "pickle":
        path.write_bytes(pickle.dumps({"payload": _Evil(target)}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(WeightsError, match="run code"):
        load(path)
    assert not target.exists()
    # The payload is real: an unpickler without a guard runs it.
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert target.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pth", b""),
        ("text.pth", b"these are not weights\n" * 40),
        ("zip.pth", b"PK\x03\x04" + bytes(200)),
        ("empty.safetensors", b""),
        ("text.safetensors", b"these are not weights\n" * 40),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="truncated or no"):
        load(tmp_path / name)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_checkpoints(tmp_path: Path, state: dict[str, torch.Tensor], suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match="truncated"):
        load(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.zeros(3), "a Tensor"),
        ({}, "an empty dict"),
        ({"epoch": 3, "lr": 0.1}, "epoch, lr"),
        ([torch.zeros(1)], "a list"),
    ],
)
def test_contents_that_are_no_state_dict(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=said):
        load(tmp_path / "net.pth")


def test_files_that_are_not_there_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="pretrained, random"):
        build(ModelSpec(_NET, weights="pretraind"))
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(WeightsError, match="safetensors"):
        load(tmp_path / "net.onnx")


# --- pretrained -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["efficientnet_lite1", "efficientnet_lite2"])
def test_packaged_weights_know_a_cat_and_an_espresso(name: str) -> None:
    model = build(ModelSpec(name))
    assert model.weights == "pretrained"
    files = [PHOTOGRAPHS / "chelsea.jpg", PHOTOGRAPHS / "coffee.jpg"]
    with torch.inference_mode():
        logits = model.module(torch.from_numpy(file_batch(files, model.preprocess)))
    assert logits.argmax(1).tolist() == [285, 967]  # Egyptian cat, espresso
    found = cached_pretrained(name)
    assert found is not None
    assert found.suffix == ".pth"


def test_a_new_head_on_pretrained_weights_is_reported() -> None:
    model = build(ModelSpec("efficientnet_lite1", num_classes=3, seed=8))
    assert model.weights == "pretrained"
    assert "random, from seed 8" in model.notes[0]
    assert build(ModelSpec("efficientnet_lite1", head="none")).notes == ()


@pytest.mark.parametrize("name", ["resnet18", _NET])
def test_auto_offline_settles_for_random_and_says_so(offline: Path, name: str) -> None:
    heard: list[Any] = []
    with process.listening(heard.append):
        model = build(ModelSpec(name, seed=4))
    assert model.weights == "random"
    (notice,) = heard
    assert isinstance(notice, process.Notice)
    assert "RANDOM weights (seed 4)" in notice.text
    with pytest.raises(WeightsError, match="--weights FILE"):
        build(ModelSpec(name, weights="pretrained"))
    assert cached_pretrained(name) is None


def _cache(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    state: Any,
    *,
    weights: Any = ResNet18_Weights,
    sha256: str | None = None,
) -> Path:
    """Put a checkpoint where torchvision looks for a model's, under a name with that hash."""
    checkpoints = folder / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(state, checkpoints / "new")
    name = f"net-{(sha256 or sha256_of(checkpoints / 'new'))[:8]}.pth"
    monkeypatch.setattr(weights, "url", f"https://download.pytorch.org/models/{name}")
    return (checkpoints / "new").rename(checkpoints / name)


def test_torchvisions_cache_is_used(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = dict(build(ModelSpec("resnet18", weights="random", seed=31)).module.state_dict())
    path = _cache(monkeypatch, offline, state)
    model = build(ModelSpec("resnet18"))
    assert model.weights == "pretrained"
    assert same(model, state)
    assert cached_pretrained("resnet18") == path


def test_a_transformers_positions_follow_the_image_size(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = dict(build(ModelSpec("vit_b_16", weights="random")).module.state_dict())
    ramp = torch.linspace(0, 1, 14).repeat_interleave(14)  # position embedding: the row of the patch
    state["encoder.pos_embedding"][0, 1:] = ramp[:, None]
    _cache(monkeypatch, offline, state, weights=ViT_B_16_Weights)
    model = build(ModelSpec("vit_b_16", image_size=112))
    assert "interpolated" in model.notes[0]
    rows = model.module.state_dict()["encoder.pos_embedding"][0, 1:, 0].reshape(7, 7)
    assert torch.allclose(rows[:, 0], rows[:, 6], atol=1e-5)
    assert (rows[1:, 0] > rows[:-1, 0]).all()


@pytest.mark.parametrize("weights", ["auto", "pretrained"])
def test_a_damaged_cache_is_not_read(offline: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    path = _cache(monkeypatch, offline, {"fc.weight": torch.zeros(1)}, sha256="0" * 64)
    with pytest.raises(WeightsError, match="hash differs") as caught:
        build(ModelSpec("resnet18", weights=weights))
    assert caught.value.hint == f"Type: rm {path}"


def test_timms_cache_is_used(offline: Path, state: dict[str, torch.Tensor]) -> None:
    repository = offline / "hf" / "models--timm--resnet10t.c3_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(state, snapshot / "model.safetensors")
    model = build(ModelSpec(_NET, image_size=64))
    assert model.weights == "pretrained"
    assert same(model, state)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A local web server: its address and the folder that it serves."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()


def test_a_download_is_checked_before_it_is_kept(server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    content = b"weights" * 1000
    good, bad = f"a-{hashlib.sha256(content).hexdigest()[:8]}.pth", "b-00000000.pth"
    for name in (good, bad):
        (folder / name).write_bytes(content)
    cache = tmp_path / "cache"
    events: list[Any] = []
    with process.listening(events.append):
        path = download(Published(f"{address}/{good}", None, target=cache / good))
    assert path.read_bytes() == content
    assert events[-1].fraction == 1.0
    with pytest.raises(WeightsError, match="hash"):
        download(Published(f"{address}/{bad}", None, target=cache / bad))
    with pytest.raises(WeightsError, match="cannot be downloaded"):
        download(Published(f"{address}/absent-00000000.pth", None, target=cache / "absent-00000000.pth"))
    assert [file.name for file in cache.iterdir()] == [good]


def test_reachable_asks_for_the_very_file(server: tuple[str, Path]) -> None:
    address, folder = server
    (folder / "there").touch()
    assert reachable(f"{address}/there")
    assert not reachable(f"{address}/not_there")
