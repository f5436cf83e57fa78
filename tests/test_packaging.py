"""The wheel holds what the tree holds, under one name; the lock file is exact and has no address."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("exporter", "calibration", "benchmarks")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in a wheel that is built from a copy of the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=_not_sources)
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-q"]
    subprocess.run([*command, "-w", folder, folder / "tree"], check=True, capture_output=True, timeout=300)
    [path] = folder.glob("bbx-*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _not_sources(folder: str, names: list[str]) -> set[str]:
    """What the tree has besides its sources: what was made, and tests."""
    everywhere = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")(folder, names)
    return everywhere | ({"artifacts", "reports", "tests"} if Path(folder) == ROOT else set())


def _sources() -> set[str]:
    """Python files of bbx, under the names that they are imported by."""
    own = {
        path for path in (ROOT / "bbx").rglob("*.py") if path.relative_to(ROOT / "bbx").parts[0] not in ROOMS
    }
    names = {path.relative_to(ROOT).as_posix() for path in own}
    for room in ROOMS:
        names |= {f"bbx/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / room).rglob("*.py")}
    return names


def test_every_source_is_in_the_wheel_once(wheel: list[str]) -> None:
    counted = Counter(name for name in wheel if name.endswith(".py"))
    assert counted == Counter(_sources())


def test_nothing_is_installed_beside_bbx(wheel: list[str]) -> None:
    top = {name.split("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == {"bbx"}


def test_data_files_are_in_the_wheel(wheel: list[str]) -> None:
    pictures = {f"bbx/photographs/{path.name}" for path in (ROOT / "bbx" / "photographs").iterdir()}
    assert len(pictures) > 4
    page = {f"bbx/{path.relative_to(ROOT)}" for path in (ROOT / "benchmarks" / "reports" / "page").iterdir()}
    assert len(page) > 4
    assert pictures | page | {"bbx/py.typed"} <= set(wheel)


def test_every_package_of_the_tree_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        name.rpartition("/")[0].replace("/", ".") for name in _sources() if name.endswith("/__init__.py")
    }
    assert sorted(listed) == sorted(found)


@pytest.mark.parametrize("room", ROOMS)
def test_the_rooms_are_linked_into_the_package(room: str) -> None:
    link = ROOT / "bbx" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..") / room


def test_torch_and_torchvision_belong_together() -> None:
    import torch
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    assert nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist() == [1, 2]


def test_every_locked_requirement_is_exact_and_hashed_and_without_an_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(-i|--index|--extra-index|--find-links|-f)\b", text, re.MULTILINE)
    entries = re.split(r"\n(?=\S)", text.strip())
    requirements = [entry for entry in entries if not entry.startswith("#")]
    assert len(requirements) > 50
    for entry in requirements:
        assert re.match(r"[A-Za-z0-9._-]+(\[[^\]]+\])?==\S+", entry), entry[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry[:80]


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["rtx"], *extras["demo"], *extras["dev"]]
    names = {re.match(r"[A-Za-z0-9-]+", requirement)[0] for requirement in asked} - {"bbx"}  # type: ignore[index]
    locked = set(re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert names <= locked
